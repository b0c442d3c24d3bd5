// Everything a run holds open: device, weights, trajectory, and the working set for the batch shape
// at hand (working-set.ts). Rebuilds the working set when a larger batch comes.
// What a forward pass does with it is forward.ts; what a step does is src/train/step.ts.

import type { Model } from '../../models/model.ts'
import { plan, type Plan } from '../../scheduler/plan.ts'
import type { StreamCounters } from '../../scheduler/stream.ts'
import { tilesOf } from '../../scheduler/tiles.ts'
import type { Device, TensorDType } from '../device/device.ts'
import type { AttentionWork, MemoryModel } from '../device/memory.ts'
import { createNoiseKernel, type NoiseKernel } from '../noise/wasm.ts'
import type { Estimator } from '../methods/estimator.ts'
import type { Method, MethodOptions, TrainingState, Update } from '../methods/method.ts'
import { findTensors, type ModelTensors } from './tensors.ts'
import { createVectors, type Vectors } from './vectors.ts'
import type { PackedBatch } from '../data/packing.ts'
import { openFiles } from '../checkpoint/files.ts'
import { openStore, overlayBytes, type WeightStore } from '../weights/store.ts'
import { type Checkpoint } from '../checkpoint/types.ts'
import { DTYPE_BYTES } from '../util/dtypes.ts'
import { fits, largest, type BatchShape } from './shape.ts'
import { planThatFits, shapeOf, splitBy, splitOf, type Cut, type Split } from './split.ts'
import { allocate, besideBuffers, type WorkingSet } from './working-set.ts'

export interface EngineOptions {
  readonly checkpoint: Checkpoint
  readonly model: Model
  readonly method: Method
  readonly methodOptions: MethodOptions
  readonly estimator: Estimator
  /** Updates made so far (a resumed run), oldest first. */
  readonly updates: readonly Update[]
  /** How many of them the checkpoint's files contain. */
  readonly folded: number
  readonly budgetBytes: number
  readonly slabBytes: number
  readonly resident: 'auto' | 'none' | 'all'
  /** Whether updates may be folded: if not, slabs stay in the file's dtype. */
  readonly folds: boolean
  /** Of the activations on the device. */
  readonly activations: TensorDType
  readonly ramBytes: number
  readonly scratchDir: string
  readonly threads: number
}

/** What an engine is made of, the source of its weights and its folders aside. */
export type EngineDesign = Omit<EngineOptions, 'checkpoint' | 'updates' | 'folded' | 'scratchDir'>

/** What a plan keeps to. */
export type Limits = Partial<Pick<EngineOptions, 'budgetBytes' | 'resident'>>

export interface Engine {
  readonly options: EngineOptions
  readonly device: Device
  readonly model: Model
  readonly store: WeightStore
  readonly vectors: Vectors
  readonly kernel: NoiseKernel
  /** What the updates so far have made of the matrices. */
  readonly state: TrainingState
  /** Updates made so far. */
  readonly updateCount: number
  /** Takes a step's update into matrices and vectors; `begin` of its step comes before. */
  push(update: Update): void
  readonly counters: StreamCounters & {
    /** Logits read back. The losses' own few numbers (12 bytes for each label) do not count. */
    downloadBytes: number
  }
  /** The working set for a shape, grown if needed. */
  workingSet(shape: BatchShape): WorkingSet
  /** In which parts a batch goes through the model under P probes (split.ts). */
  split(batch: PackedBatch, P: number): Split
  /** Rows of a probe that the working set at hand has room for. */
  readonly heldRows: number
  /** Largest predicted peak of the working sets so far. */
  readonly plannedPeakBytes: number
  /** What `workingSet` would plan, within `limits` or else the run's own; `held`: it is there. */
  planFor(shape: BatchShape, limits?: Limits): { readonly plan: Plan; readonly held: boolean }
  close(): Promise<void>
}

/** The plan of a run before anything is opened; `zo2 plan` prints it. */
export function planFor(
  options: EngineDesign,
  tensors: ModelTensors,
  shape: BatchShape,
  memory: MemoryModel,
): Plan {
  const { model, method, methodOptions } = options
  const dtypes = new Map(tensors.matrices.map((m) => [m.matrix.name, m.entry.dtype]))
  const widened = (name: string) => options.folds && methodOptions.selection.trains(name)
  const demand = method.demand(methodOptions, shapesOf(tensors), shape.probes)
  return plan({
    matrices: model.matrices,
    vectors: model.vectors.map((v) => v.size),
    buffers: model.buffers,
    elementBytes: (name) =>
      Math.max(DTYPE_BYTES[dtypes.get(name)!], widened(name) ? overlayBytes(methodOptions) : 0),
    ...shape,
    attention: attentionWork(model, shape),
    terms: demand.terms,
    versions: demand.versions(shape.probes),
    activationBytes: DTYPE_BYTES[options.activations],
    beside: besideBuffers(model, shape, options.activations),
    projectionCols: demand.projectionCols,
    addendElements: demand.addendElements,
    memory,
    budgetBytes: options.budgetBytes,
    slabBytes: options.slabBytes,
    resident: options.resident,
  })
}

/** What attention sees at most of a pass of the shape, a prefix in front of every list. */
function attentionWork(model: Model, { groups, listed, longest }: BatchShape): AttentionWork {
  const { heads, kvHeads, headSize } = model.attention
  const { prefixTokens: n = 0 } = model
  return { heads, kvHeads, headSize, groups, listed: listed + groups * n, longest: longest + n }
}

/** Opens weights and vectors on an open device. On failure nothing stays open but the device. */
export async function createEngine(device: Device, options: EngineOptions): Promise<Engine> {
  const { model, checkpoint, method, methodOptions } = options
  const tensors = findTensors(model, checkpoint)
  const kernel = createNoiseKernel()
  const values = await readVectors(tensors, kernel)
  const vectors = createVectors(values, kernel, methodOptions, method.beta(methodOptions))
  const state = method.start(methodOptions, shapesOf(tensors), kernel)
  const store = await openStore({
    matrices: tensors.matrices.map(({ matrix, entry }) => ({
      name: matrix.name,
      cols: matrix.cols,
      tiles: tilesOf(matrix.rows, matrix.cols),
      entry,
      trains: methodOptions.selection.trains(matrix.name),
    })),
    overlayDtype: methodOptions.overlayDtype,
    seed: methodOptions.seed,
    ramBytes: options.ramBytes,
    scratchDir: options.scratchDir,
    threads: options.threads,
  })
  let current: WorkingSet | null = null
  /** By probes: a training step and an evaluation do not make each other's set larger. */
  const usual = new Map<number, BatchShape>()
  let plannedPeakBytes = 0
  let updateCount = options.folded
  const exactly = (shape: BatchShape, limits?: Limits) =>
    planFor({ ...options, ...limits }, tensors, shape, device.memory)
  /** What a set for the shape would be: as large as any shape of as many probes so far if that fits. */
  const planned = (shape: BatchShape, limits?: Limits) => {
    const before = usual.get(shape.probes)
    const grown = before ? largest([shape, before]) : shape
    const plan = planThatFits(() => exactly(grown, limits))
    return plan ? { grown, plan } : { grown: shape, plan: exactly(shape, limits) }
  }
  const fitsNow = (shape: BatchShape) => current !== null && fits(shape, current.shape)
  /** By size of a batch that does not go in one pass. */
  const cuts = new Map<string, Cut>()
  const push = (update: Update) => {
    state.push(update)
    vectors.push(update)
    updateCount++
  }
  try {
    for (const update of options.updates.slice(options.folded)) {
      const fold = state.begin(update.step)
      if (fold) await store.fold(fold)
      push(update)
    }
  } catch (error) {
    await store.close()
    throw error
  }
  return {
    options,
    device,
    model,
    store,
    vectors,
    kernel,
    state,
    get updateCount() {
      return updateCount
    },
    push,
    counters: { readBytes: 0, uploadBytes: 0, downloadBytes: 0, waitMs: 0 },
    get plannedPeakBytes() {
      return plannedPeakBytes
    },
    planFor(shape, limits) {
      const held = current !== null && fits(shape, current.shape)
      if (held && !limits) return { plan: current!.plan, held }
      const { plan } = planned(shape, limits)
      return { plan, held }
    },
    workingSet(shape) {
      if (current && fits(shape, current.shape)) return current
      const { grown, plan } = planned(shape)
      current?.free()
      current = null
      current = allocate(device, model, vectors, plan, grown, options.activations)
      usual.set(grown.probes, grown) // only now: a shape that does not fit must not be tried again
      plannedPeakBytes = Math.max(plannedPeakBytes, plan.peakBytes)
      return current
    },
    get heldRows() {
      return current?.shape.rows ?? 0
    },
    split(batch, P) {
      const whole = shapeOf(batch, P)
      if (fitsNow(whole)) {
        return { probes: P, texts: batch.texts.length, parts: [batch], passes: 1, shape: whole }
      }
      const key = JSON.stringify(whole)
      const known = cuts.get(key)
      const again = known && splitBy(batch, P, known)
      // Texts of the same size in all may lie otherwise among the parts.
      if (again && (fitsNow(again.shape) || planThatFits(() => exactly(again.shape)))) return again
      const split = splitOf(exactly, batch, P)
      cuts.set(key, { probes: split.probes, texts: split.texts })
      return split
    },
    async close() {
      current?.free()
      current = null
      await store.close()
    },
  }
}

const shapesOf = (tensors: ModelTensors) => tensors.matrices.map(({ matrix }) => matrix)

async function readVectors(tensors: ModelTensors, kernel: NoiseKernel) {
  const files = await openFiles(tensors.vectors.map((v) => v.file))
  try {
    const values = new Map<string, Float32Array>()
    for (const entry of tensors.vectors) {
      const raw = new Uint8Array(entry.bytes)
      await files.read(entry, 0, raw)
      const value = new Float32Array(entry.shape[0]!)
      kernel.apply(raw, entry.dtype, 0, { terms: [], scales: [] }, [], value)
      values.set(entry.name, value)
    }
    return values
  } finally {
    await files.close()
  }
}
