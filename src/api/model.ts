// The library face: fromPretrained and zoInit for people who write their own loop. Shapes are plain
// number[][]; a batch is checked before anything runs; nothing is written unless `save` is called.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { StepHooks } from '../train/callbacks.ts'
import { parseConfig, type Config } from '../config/options.ts'
import { checkBatch, labelledTokens } from '../data/batches.ts'
import { IGNORED, type Batch, type BatchInput, type Tokenizer } from '../data/types.ts'
import type { Device } from '../device/device.ts'
import { createEngine, type Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { evaluateBatches, type Evaluation } from '../train/evaluate.ts'
import { goalOf, type Goal } from './goal.ts'
import { meanLoss, type JournalEntry } from '../run/journal.ts'
import type { METHOD_OPTIONS } from '../config/method.ts'
import { tokenizerOf } from '../data/model-tokenizer.ts'
import { silent } from '../util/console.ts'
import { forward } from '../engine/forward.ts'
import {
  DTYPES,
  loadModel,
  openDevice,
  prefixed,
  readyOptions,
  type EngineState,
  type LoadedModel,
} from '../engine/open.ts'
import { zoStep } from '../train/step.ts'
import { writeTrained } from '../export/result.ts'

type Subset<K extends keyof Config> = { readonly [P in K]?: Config[P] | undefined }
/** Byte sizes may be written as text. */
type Sizes = { readonly [P in 'memory' | 'slab' | 'ram']?: number | string | undefined }

/** Options of fromPretrained; meaning and defaults as the flags of the command line. */
export type ModelOptions = Sizes &
  Subset<
    | 'device'
    | 'adapter'
    | 'transfer'
    | 'threads'
    | 'resident'
    | 'activationDtype'
    | 'scratchDir'
    | 'revision'
    | 'cacheDir'
  >

/** Options of methods; meaning and defaults as the flags of the command line. */
export type MethodArguments = Subset<keyof typeof METHOD_OPTIONS>

/** Options of zoInit. */
export interface ZoOptions extends Omit<MethodArguments, 'adaptiveEps'>, StepHooks, Goal {}

/** A batch whose labels may be left out. */
export type ForwardInput = Omit<BatchInput, 'labels'> & Partial<Pick<BatchInput, 'labels'>>

export interface ForwardResult {
  /** Mean cross-entropy over labelled tokens, nats; NaN for a batch without labels. */
  readonly loss: number
  /** [B, T, V], only if asked for. */
  readonly logits?: Float32Array
}

/** A loaded model on an open device. */
export interface ZoModel {
  /** config.json. */
  readonly config: Readonly<Record<string, unknown>>
  readonly device: Device
  /** The tokenizer in the model's folder. UserError if there is none. */
  tokenizer(): Promise<Tokenizer>
  /**
   * Loss, and with `logits: true` the logits [B, T, V], of the weights as they are now. Without
   * labels every position counts as unlabelled.
   */
  forward(batch: ForwardInput, options?: { logits?: boolean }): Promise<ForwardResult>
  /** Frees the device. Safe to call twice. */
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
  /** The rate of the next step; may be set between steps. */
  lr: number
}

/** What the trainer needs of a model. */
export interface Handle extends ZoModel {
  readonly loaded: LoadedModel
  /** What fromPretrained was given. */
  readonly given: ModelOptions
  /** The engine as it is; `train` puts another in its place. */
  readonly engine: Engine
  /** Replaces the engine by one that trains, after the updates of `state`. */
  train(config: Config, state: Updates): Promise<Engine>
  check(batch: ForwardInput, needsLabels?: boolean): Batch
}

type Updates = Pick<EngineState, 'updates' | 'folded' | 'checkpoint' | 'prefixDir'>
const NO_UPDATES: Updates = { updates: [], folded: 0 }

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
  const config = parseConfig(options)
  const loaded = await loadModel(model, config, silent)
  const device = await openDevice(config)
  const scratchDir = await mkdtemp(join(tmpdir(), 'zo2-'))
  const optionsFor = (merged: Config, updates: Updates, trains: boolean) =>
    readyOptions(device, prefixed(loaded, merged), merged, { ...updates, trains, scratchDir })
  let engine: Engine
  try {
    engine = await createEngine(device, await optionsFor(config, NO_UPDATES, false))
  } catch (error) {
    await device.close()
    await rm(scratchDir, { recursive: true, force: true })
    throw error
  }
  let closed = false
  const check = (batch: ForwardInput, needsLabels = true) => {
    if (closed) throw new UserError('the model is closed')
    const labels = batch.labels ?? batch.inputIds.map((row) => row.map(() => IGNORED))
    const { vocabSize, maxPositions } = engine.model
    return checkBatch({ ...batch, labels }, { vocabSize, maxPositions, needsLabels })
  }
  const handle: Handle = {
    config: loaded.checkpoint.config,
    device,
    loaded,
    given: options,
    get engine() {
      return engine
    },
    check,
    tokenizer: () => tokenizerOf(loaded),
    forward: (batch, { logits } = {}) => modelForward(engine, check(batch, false), logits === true),
    async train(merged, updates) {
      if (closed) throw new UserError('the model is closed')
      const next = await optionsFor(merged, updates, true)
      await engine.close()
      return (engine = await createEngine(device, next))
    },
    async close() {
      if (closed) return
      closed = true
      try {
        await engine.close()
      } finally {
        await device.close()
        await rm(scratchDir, { recursive: true, force: true })
      }
    },
  }
  const { config: modelConfig, tokenizer, forward, close } = handle
  const face: ZoModel = { config: modelConfig, device, tokenizer, forward, close }
  handles.set(face, handle)
  return face
}

/**
 * Prepares a model for training. The weights it starts from are the checkpoint's: an earlier
 * training state on the same model ends here.
 */
export async function zoInit(model: ZoModel, options: ZoOptions = {}): Promise<Zo> {
  const handle = handleOf(model, 'zoInit')
  const { beforeStep, afterStep, objective, trainAsClassification, maxNewTokens, ...own } = options
  const goal = await goalOf(handle, { objective, trainAsClassification, maxNewTokens })
  const all = parseConfig(defined({ ...handle.given, ...own }))
  // A loop may go on for ever.
  const config: Config = { ...all, steps: Infinity }
  const engine = await handle.train(config, NO_UPDATES)
  /** Whether this is still what the model's weights are. */
  const live = () => {
    if (handle.engine === engine) return
    throw new UserError('this training state ended when another one began on the same model')
  }
  let step = 0
  const zo: Zo = {
    lr: config.lr,
    async step(batch) {
      live()
      const list = Array.isArray(batch) ? (batch as BatchInput[]) : [batch as BatchInput]
      const batches = list.map((b) => handle.check(b, goal.needsLabels))
      await beforeStep?.(step, batches)
      const entry = await zoStep(engine, {
        batches,
        objective: goal.objective,
        step: step++,
        lr: zo.lr,
        eps: config.eps,
        weightDecay: config.weightDecay,
        append: () => Promise.resolve(),
      })
      await afterStep?.(entry, batches)
      return { loss: meanLoss(entry) ?? NaN, projectedGrad: entry.projected_grad, entry }
    },
    async evaluate(batches) {
      live()
      return evaluateBatches(engine, checked(batches, handle.check))
    },
    async save(dir, { dtype = 'float32' } = {}) {
      live()
      await writeTrained(engine, dir, handle.loaded, { dtype: DTYPES[dtype] })
    },
  }
  return zo
}

/** An object without its undefined members. */
export const defined = (options: object): Record<string, unknown> =>
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
  const all = new Float32Array(B * T * V)
  await forward(engine, batch, null, {
    kind: 'logits',
    rows: Uint32Array.from({ length: B * T }, (_, i) => i),
    sink: (tile, data) => {
      for (let i = 0; i < B * T; i++) {
        all.set(data.subarray(i * tile.rows, (i + 1) * tile.rows), i * V + tile.row0)
      }
    },
  })
  return { loss, logits: all }
}
