// The library face: fromPretrained and zoInit for people who write their own loop. Shapes are plain
// number[][]; a batch is checked before anything runs; nothing is written unless `save` is called. Calls
// on one model run one after another (turns.ts).

import { rm } from 'node:fs/promises'
import { OPTIONS, parseConfig, type Config, type OptionsOf } from '../config/options.ts'
import { parseValue } from '../config/values.ts'
import { checkBatch, labelledTokens } from '../data/batches.ts'
import { packBatch } from '../data/packing.ts'
import { upTo } from '../device/packed.ts'
import { tokenizerOf } from '../data/model-tokenizer.ts'
import { IGNORED, type Batch, type BatchInput, type Tokenizer } from '../data/types.ts'
import type { Device, DeviceInfo } from '../device/device.ts'
import type { Ledger } from '../device/ledger.ts'
import type { Engine } from '../engine/engine.ts'
import { apartIn } from '../engine/forward.ts'
import { logitsOf } from '../train/logits.ts'
import { loadModel, prefixed, type LoadedModel } from '../engine/load.ts'
import { methodOf } from '../engine/method.ts'
import {
  openDevice,
  openEngine,
  UNTRAINED,
  type EngineState,
  type OpenEngine,
} from '../engine/open.ts'
import { writeTrained } from '../export/result.ts'
import { scratchFolder } from '../io/scratch.ts'
import { meanLoss, type JournalEntry } from '../run/journal.ts'
import type { StepHooks } from '../train/callbacks.ts'
import { evaluateBatches, type Evaluation } from '../train/evaluate.ts'
import { zoStep } from '../train/step.ts'
import { silent } from '../util/console.ts'
import { DTYPES } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import { batchesOf, dtypeOf, folderOf, functionOf, objectOf } from './guards.ts'
import { goalOf, type Goal, type ResolvedGoal } from './objective.ts'
import { createTurns, type Turns } from './turns.ts'

/**
 * Options of fromPretrained; meaning and defaults as the flags of the command line.
 * @interface
 */
export type ModelOptions = OptionsOf<'fromPretrained'>

/**
 * Options of zoInit: those of methods as the flags of the command line, an objective, hooks.
 * @interface
 */
export type ZoOptions = Omit<OptionsOf<'zoInit'>, keyof Goal> & StepHooks & Goal

/**
 * A batch whose labels may be left out.
 * @interface
 */
export type ForwardInput = Omit<BatchInput, 'labels'> & Partial<Pick<BatchInput, 'labels'>>

export interface ForwardResult {
  /** Mean cross-entropy over labelled tokens, nats; NaN for a batch without labels. */
  readonly loss: number
  /** [B, T, V], only if asked for. */
  readonly logits?: Float32Array
}

/** The device that a model is on, and the bytes that it holds there. */
export interface ModelDevice {
  readonly info: DeviceInfo
  readonly ledger: Pick<Ledger, 'now' | 'total' | 'peak'>
}

/** A loaded model on an open device. */
export interface ZoModel {
  /** config.json. */
  readonly config: Readonly<Record<string, unknown>>
  readonly device: ModelDevice
  /** The tokenizer in the model's folder. UserError if there is none. */
  tokenizer(): Promise<Tokenizer>
  /**
   * Loss, and with `logits: true` the logits [B, T, V], of the weights as they are now; those of padding are 0.
   * Without labels every position counts as unlabelled.
   * @throws UserError for a batch that is none, or a closed model
   */
  forward(batch: ForwardInput, options?: { logits?: boolean }): Promise<ForwardResult>
  /** Frees the device once the calls before it are over. Safe to call twice. */
  close(): Promise<void>
}

export interface StepResult {
  /** (loss+ + loss-)/2; NaN if the step was skipped. */
  readonly loss: number
  readonly projectedGrad: number
  readonly entry: JournalEntry
}

/** A training state on a model. */
export interface Zo {
  /** One step on one batch, or on several micro-batches under one direction. */
  step(batch: BatchInput | readonly BatchInput[]): Promise<StepResult>
  /** Mean loss over batches. */
  evaluate(batches: Iterable<BatchInput> | AsyncIterable<BatchInput>): Promise<Evaluation>
  /** Writes a Hugging Face folder with all updates made so far. */
  save(dir: string, options?: { dtype?: Config['dtype'] }): Promise<void>
  /** The rate of the next step; may be set between steps, to a number of at least 0 (else UserError). */
  lr: number
}

/** What the trainer needs of a model. */
export interface Handle extends ZoModel {
  readonly loaded: LoadedModel
  /** What fromPretrained was given. */
  readonly given: ModelOptions
  readonly turns: Turns
  /** The engine as it is; `open` puts another in its place. */
  readonly engine: Engine
  /** Replaces the engine by one that trains; the model closes it. */
  open(config: Config, state: Omit<EngineState, 'trains' | 'scratchDir'>): Promise<OpenEngine>
  /** The batch, checked. UserError if it is none, or the model is closed. */
  check(batch: ForwardInput, needsLabels?: boolean): Batch
}

const handles = new WeakMap<ZoModel, Handle>()

/** @throws UserError for what is no model of fromPretrained */
export function handleOf(model: ZoModel, who: string): Handle {
  const handle = handles.get(model)
  if (handle) return handle
  throw new UserError(`${who} takes a model made by fromPretrained`)
}

/**
 * Opens a model: a hub id or a local folder.
 * @throws UserError for a missing or damaged checkpoint, an unknown option, a missing device
 */
export async function fromPretrained(model: string, options: ModelOptions = {}): Promise<ZoModel> {
  if (typeof model !== 'string' || model === '') {
    throw new UserError(`fromPretrained: expected a folder or a hub id, found ${String(model)}`)
  }
  const config = parseConfig(objectOf(options, 'fromPretrained'), 'fromPretrained')
  const loaded = await loadModel(model, config, silent)
  const scratchDir = await scratchFolder()
  const device = await openDevice(config).catch(async (error: unknown) => {
    await rm(scratchDir, { recursive: true, force: true })
    throw error
  })
  const closeDevice = async () => {
    await device.close()
    await rm(scratchDir, { recursive: true, force: true })
  }
  let open: OpenEngine
  try {
    const state = { ...UNTRAINED, trains: false, scratchDir }
    open = await openEngine(loaded, config, state, device)
  } catch (error) {
    await closeDevice()
    throw error
  }
  const handle = createHandle(loaded, options, device, { open, scratchDir, closeDevice })
  const { config: modelConfig, tokenizer, forward: forwardBatch, close } = handle
  const face: ZoModel = { config: modelConfig, device, tokenizer, forward: forwardBatch, close }
  handles.set(face, handle)
  return face
}

interface Opened {
  readonly open: OpenEngine
  readonly scratchDir: string
  closeDevice(): Promise<void>
}

function createHandle(
  loaded: LoadedModel,
  given: ModelOptions,
  device: Device,
  { open, scratchDir, closeDevice }: Opened,
): Handle {
  const turns = createTurns()
  let current = open
  let closed = false
  const check = (batch: ForwardInput, needsLabels = true) => {
    if (closed) throw new UserError('the model is closed')
    const { vocabSize, maxPositions } = current.engine.model
    return checkBatch(withLabels(batch), { vocabSize, maxPositions, needsLabels })
  }
  return {
    config: loaded.checkpoint.config,
    device,
    loaded,
    given,
    turns,
    get engine() {
      return current.engine
    },
    check,
    tokenizer: () => tokenizerOf(loaded),
    forward: async (batch, options = {}) => {
      const { logits } = objectOf(options, 'forward')
      return turns.run(async () =>
        modelForward(current.engine, check(batch, false), logits === true),
      )
    },
    async open(config, state) {
      if (closed) throw new UserError('the model is closed')
      const own = prefixed(loaded, config)
      methodOf(config, own.model) // what is wrong with it is said while there still is an engine
      await current.close()
      current = await openEngine(own, config, { ...state, trains: true, scratchDir }, device)
      return { ...current, close: () => Promise.resolve() }
    },
    close: () =>
      turns.alone('close', async () => {
        if (closed) return
        closed = true
        try {
          await current.close()
        } finally {
          await closeDevice()
        }
      }),
  }
}

/** Without labels no position has one. What is no batch stays as it is, for checkBatch to refuse. */
function withLabels(batch: ForwardInput): BatchInput {
  if (typeof batch !== 'object' || batch === null || batch.labels) return batch as BatchInput
  const { inputIds } = batch
  if (!Array.isArray(inputIds) || !inputIds.every(Array.isArray)) return batch as BatchInput
  return { ...batch, labels: inputIds.map((row: readonly number[]) => row.map(() => IGNORED)) }
}

/**
 * Prepares a model for training. The weights it starts from are the checkpoint's: an earlier
 * training state on the same model ends here.
 * @throws UserError for an option that is unknown or means nothing, or an objective that is none
 */
export async function zoInit(model: ZoModel, options: ZoOptions = {}): Promise<Zo> {
  const handle = handleOf(model, 'zoInit')
  const { beforeStep, afterStep, objective, trainAsClassification, maxNewTokens, ...own } =
    objectOf(options, 'zoInit')
  functionOf(beforeStep, 'beforeStep')
  functionOf(afterStep, 'afterStep')
  const goal = await goalOf(handle, { objective, trainAsClassification, maxNewTokens })
  const parsed = parseConfig({ ...handle.given, ...defined(own) }, 'zoInit', 'fromPretrained')
  const config: Config = { ...parsed, steps: Infinity } // a loop may go on for ever
  const { engine } = await handle.turns.alone('zoInit', () => handle.open(config, UNTRAINED))
  return createZo(handle, engine, config, goal, { beforeStep, afterStep })
}

type Hooks = { readonly [K in keyof StepHooks]: StepHooks[K] | undefined }

function createZo(
  handle: Handle,
  engine: Engine,
  config: Config,
  goal: ResolvedGoal,
  { beforeStep, afterStep }: Hooks,
): Zo {
  const { turns } = handle
  /** Whether this is still what the model's weights are. */
  const live = () => {
    if (handle.engine === engine) return
    throw new UserError('this training state ended when another one began on the same model')
  }
  let { lr } = config
  let step = 0
  return {
    get lr() {
      return lr
    },
    set lr(value: number) {
      if (typeof value !== 'number') {
        throw new UserError(`lr: expected a number of at least 0, found ${String(value)}`)
      }
      lr = parseValue('lr', OPTIONS.lr.schema, value) as number
    },
    step: (batch) =>
      turns.alone('step', async () => {
        live()
        const list = Array.isArray(batch) ? (batch as BatchInput[]) : [batch as BatchInput]
        if (list.length === 0) throw new UserError('step: expected one batch or more, found none')
        const batches = list.map((b) => handle.check(b, goal.needsLabels))
        await beforeStep?.(step, batches)
        const packed = batches.map((batch) => packBatch(batch))
        const entry = await zoStep(engine, {
          batches: packed,
          objective: goal.objective,
          step: step++,
          lr,
          eps: config.eps,
          weightDecay: config.weightDecay,
          append: () => Promise.resolve(),
        })
        await afterStep?.(entry, batches)
        return { loss: meanLoss(entry) ?? NaN, projectedGrad: entry.projected_grad, entry }
      }),
    evaluate: (batches) =>
      turns.run(async () => {
        live()
        return evaluateBatches(engine, checked(batchesOf(batches, 'evaluate'), handle.check))
      }),
    save: async (dir, options = {}) => {
      const { dtype = 'float32' } = objectOf(options, 'save')
      const written = { dtype: DTYPES[dtypeOf(dtype)] }
      folderOf(dir, 'save')
      return turns.run(async () => {
        live()
        await writeTrained(engine, dir, handle.loaded, written)
      })
    },
  }
}

/** An object without its undefined members. */
const defined = (options: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))

async function* checked(
  batches: Iterable<BatchInput> | AsyncIterable<BatchInput>,
  check: (batch: BatchInput) => Batch,
): AsyncGenerator<Batch> {
  for await (const batch of batches) yield check(batch)
}

async function modelForward(engine: Engine, batch: Batch, logits: boolean): Promise<ForwardResult> {
  const [B, T, V] = [batch.inputIds.length, batch.inputIds[0]!.length, engine.model.vocabSize]
  const loss = labelledTokens(batch) > 0 ? (await evaluateBatches(engine, [batch])).loss : NaN
  if (!logits) return { loss }
  const packed = packBatch(batch, { whole: true, apart: apartIn(engine.model) })
  const [byRow] = await logitsOf(engine, packed, upTo(packed.packed.ids.length), null)
  const all = new Float32Array(B * T * V)
  batch.attentionMask.forEach((mask, b) => {
    let next = 0
    mask.forEach((real, t) => {
      if (real === 1) all.set(byRow!.get(packed.textRows[b]![next++]!)!, (b * T + t) * V)
    })
  })
  return { loss, logits: all }
}
