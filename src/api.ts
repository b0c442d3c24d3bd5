// The library face: fromPretrained and zoInit for people who write their own loop. Shapes are plain
// number[][]; a batch is checked before anything runs; nothing is written unless `save` is called.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseConfig, type Config } from './config.ts'
import { checkBatch, labelledTokens } from './data/batches.ts'
import { IGNORED, type Batch, type BatchInput } from './data/types.ts'
import type { Device } from './device/device.ts'
import { createEngine, type Engine } from './engine.ts'
import { UserError } from './errors.ts'
import { evaluateBatches, type Evaluation } from './evaluate.ts'
import { exportModel } from './export.ts'
import type { JournalEntry } from './journal.ts'
import { METHOD_KEYS, type METHOD_OPTIONS } from './method-options.ts'
import { silent } from './report.ts'
import { forward } from './run.ts'
import { DTYPES, engineOptions, loadModel, memoryModel, openDevice } from './setup.ts'
import { zoStep } from './step.ts'

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
    | 'scratchDir'
    | 'revision'
    | 'cacheDir'
  >

/** Options of zoInit; meaning and defaults as the flags of the command line. */
export type ZoOptions = Subset<Exclude<keyof typeof METHOD_OPTIONS, 'adaptiveEps'>>

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

interface Handle extends ZoModel {
  /** Replaces the engine by one that trains. */
  train(config: Config): Promise<Engine>
  check(batch: ForwardInput, needsLabels?: boolean): Batch
}

const handles = new WeakMap<ZoModel, Handle>()

/**
 * Opens a model: a hub id or a local folder.
 * @throws UserError for a missing or damaged checkpoint, an unknown option, a missing device
 */
export async function fromPretrained(model: string, options: ModelOptions = {}): Promise<ZoModel> {
  const config = parseConfig(options)
  const loaded = await loadModel(model, config, silent)
  const device = await openDevice(config)
  const scratchDir = await mkdtemp(join(tmpdir(), 'zo2-'))
  const open = (merged: Config, trains: boolean) =>
    memoryModel(merged).then((memory) =>
      createEngine(
        device,
        engineOptions(loaded, merged, memory, { updates: [], folded: 0, trains, scratchDir }),
      ),
    )
  let engine: Engine
  try {
    engine = await open(config, false)
  } catch (error) {
    await device.close()
    await rm(scratchDir, { recursive: true, force: true })
    throw error
  }
  let closed = false
  const { vocabSize, maxPositions } = loaded.model
  const check = (batch: ForwardInput, needsLabels = true) => {
    if (closed) throw new UserError('the model is closed')
    const labels = batch.labels ?? batch.inputIds.map((row) => row.map(() => IGNORED))
    return checkBatch({ ...batch, labels }, { vocabSize, maxPositions, needsLabels })
  }
  const handle: Handle = {
    config: loaded.checkpoint.config,
    device,
    check,
    forward: (batch, { logits } = {}) => modelForward(engine, check(batch, false), logits === true),
    async train(merged) {
      await engine.close()
      engine = await open({ ...config, ...merged }, true)
      return engine
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
  const { config: modelConfig, forward, close } = handle
  const face: ZoModel = { config: modelConfig, device, forward, close }
  handles.set(face, handle)
  return face
}

/**
 * Prepares a model for training. The weights it starts from are the checkpoint's: an earlier
 * training state on the same model ends here.
 */
export async function zoInit(model: ZoModel, options: ZoOptions = {}): Promise<Zo> {
  const handle = handles.get(model)
  if (!handle) throw new UserError('zoInit takes a model made by fromPretrained')
  const given = Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined))
  const config = parseConfig(given)
  const only = Object.fromEntries(METHOD_KEYS.map((key) => [key, config[key]])) as unknown as Config
  const engine = await handle.train({ ...only, steps: Infinity }) // a loop may go on for ever
  let step = 0
  const zo: Zo = {
    lr: config.lr,
    async step(batch) {
      const list = Array.isArray(batch) ? (batch as BatchInput[]) : [batch as BatchInput]
      const entry = await zoStep(engine, {
        batches: list.map((b) => handle.check(b)),
        step: step++,
        lr: zo.lr,
        eps: config.eps,
        weightDecay: config.weightDecay,
        append: () => Promise.resolve(),
      })
      const loss = entry.skipped ? NaN : (entry.loss_plus! + entry.loss_minus!) / 2
      return { loss, projectedGrad: entry.projected_grad, entry }
    },
    evaluate: (batches) => evaluateBatches(engine, checked(batches, handle.check)),
    save: (dir, { dtype = 'float32' } = {}) => exportModel(engine, dir, { dtype: DTYPES[dtype] }),
  }
  return zo
}

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
