// Everything a run holds open: device, weights, trajectory, and the working set for the batch shape
// at hand (plan, slots, activation buffers). Rebuilds the working set when a larger batch comes.
// What a forward pass does with it is run.ts; what a step does is step.ts.

import type { Model } from '../models/model.ts'
import { plan, type Plan } from '../scheduler/plan.ts'
import { createSlots, type Slots } from '../scheduler/slots.ts'
import type { StreamCounters } from '../scheduler/stream.ts'
import { tilesOf } from '../scheduler/tiles.ts'
import type { Device, MemoryModel, Tensor } from './device/device.ts'
import { createNoiseKernel, type NoiseKernel } from './noise/wasm.ts'
import type { Estimator } from './methods/estimator.ts'
import type { Method, MethodOptions, TrainingState, Update } from './methods/method.ts'
import { findTensors, type ModelTensors } from './tensors.ts'
import { createVectors, type Vectors } from './vectors.ts'
import { openFiles } from './weights/files.ts'
import { openStore, type WeightStore } from './weights/overlay.ts'
import { DTYPE_BYTES, type Checkpoint } from './weights/types.ts'

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
  readonly memory: MemoryModel
  readonly budgetBytes: number
  readonly slabBytes: number
  readonly resident: 'auto' | 'none' | 'all'
  /** Whether updates may be folded: if not, slabs stay in the file's dtype. */
  readonly folds: boolean
  readonly ramBytes: number
  readonly scratchDir: string
  readonly threads: number
}

/** Batch shape a working set is made for. */
export interface BatchShape {
  readonly probes: number
  readonly batch: number
  readonly tokens: number
  /** Positions that a key-value cache holds for each sequence (one probe); absent: no cache. */
  readonly keys?: number
}

/** Keys and values of earlier positions, by layer [B*S, C], with the mask [B, S] of their use. */
export interface KeyValueCache {
  /** S. */
  readonly capacity: number
  readonly keys: readonly Tensor[]
  readonly values: readonly Tensor[]
  readonly mask: Tensor
}

/** The device memory of one batch shape. */
export interface WorkingSet {
  readonly shape: BatchShape
  readonly plan: Plan
  readonly slots: Slots
  readonly buffers: ReadonlyMap<string, Tensor>
  /** The mask of a batch [B, T] of at most this shape; valid until the next call. */
  keyMask(batch: number, tokens: number): Tensor
  /** [R, 3] of crossEntropy. */
  readonly lossState: Tensor
  readonly cache: KeyValueCache | null
  free(): void
}

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
  readonly counters: StreamCounters
  /** The working set for a shape, grown if needed. */
  workingSet(shape: BatchShape): WorkingSet
  close(): Promise<void>
}

/** The plan of a run before anything is opened; `zo2 plan` prints it. */
export function planFor(
  options: Omit<EngineOptions, 'checkpoint' | 'updates' | 'folded'>,
  tensors: ModelTensors,
  shape: BatchShape,
  maxSlabBytes: number,
): Plan {
  const { model, method, methodOptions } = options
  const dtypes = new Map(tensors.matrices.map((m) => [m.matrix.name, m.entry.dtype]))
  const widened = (name: string) => options.folds && methodOptions.selection.trains(name)
  const demand = method.demand(methodOptions, shapesOf(tensors), shape.probes)
  return plan({
    matrices: model.matrices,
    vectorElements: model.vectors.reduce((sum, v) => sum + v.size, 0),
    bufferCols: model.buffers.map((b) => b.cols),
    elementBytes: (name) => (widened(name) ? 4 : DTYPE_BYTES[dtypes.get(name)!]),
    ...shape,
    heads: model.heads,
    headSize: model.hidden / model.heads,
    terms: demand.terms,
    versions: demand.versions(shape.probes),
    keys: Math.max(shape.tokens, shape.keys ?? 0),
    cacheElements: shape.batch * (shape.keys ?? 0) * (2 * model.layers * model.hidden + 1),
    projectionCols: demand.projectionCols,
    addendElements: demand.addendElements,
    memory: options.memory,
    maxSlabBytes,
    budgetBytes: options.budgetBytes,
    slabBytes: options.slabBytes,
    resident: options.resident,
  })
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
    ramBytes: options.ramBytes,
    scratchDir: options.scratchDir,
    threads: options.threads,
  })
  let current: WorkingSet | null = null
  let updateCount = options.folded
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
    counters: { readBytes: 0, uploadBytes: 0, waitMs: 0 },
    workingSet(shape) {
      if (current && fits(shape, current.shape)) return current
      const grown = current ? largest(shape, current.shape) : shape
      const next = planFor(options, tensors, grown, device.maxSlabBytes)
      current?.free()
      current = null
      current = allocate(device, model, vectors, next, grown)
      return current
    },
    async close() {
      current?.free()
      current = null
      await store.close()
    },
  }
}

const shapesOf = (tensors: ModelTensors) => tensors.matrices.map(({ matrix }) => matrix)

const fits = (a: BatchShape, b: BatchShape) =>
  a.probes <= b.probes &&
  a.batch <= b.batch &&
  a.tokens <= b.tokens &&
  (a.keys ?? 0) <= (b.keys ?? 0)

const largest = (a: BatchShape, b: BatchShape): BatchShape => ({
  probes: Math.max(a.probes, b.probes),
  batch: Math.max(a.batch, b.batch),
  tokens: Math.max(a.tokens, b.tokens),
  ...((a.keys ?? b.keys) && { keys: Math.max(a.keys ?? 0, b.keys ?? 0) }),
})

function allocate(
  device: Device,
  model: Model,
  vectors: Vectors,
  next: Plan,
  shape: BatchShape,
): WorkingSet {
  const rows = next.workload.probes * next.workload.rows
  device.reserve(next.workload)
  vectors.allocate(device, shape.probes)
  const make = (label: string, cols: number) => device.tensor('activations', label, rows, cols)
  const slots = createSlots(next, device)
  let mask = device.tensor('activations', 'key mask', shape.batch, shape.tokens)
  const cache =
    shape.keys === undefined ? null : allocateCache(device, model, shape.batch, shape.keys)
  return {
    shape,
    plan: next,
    slots,
    buffers: new Map(model.buffers.map((b) => [b.label, make(b.label, b.cols)])),
    keyMask: (batch, tokens) => {
      if (mask.rows !== batch || mask.cols !== tokens) {
        device.free(mask)
        mask = device.tensor('activations', 'key mask', batch, tokens)
      }
      return mask
    },
    lossState: make('loss state', 3),
    cache,
    free() {
      slots.free()
      const cached = cache ? [...cache.keys, ...cache.values, cache.mask] : []
      for (const tensor of [...this.buffers.values(), mask, this.lossState, ...cached]) {
        device.free(tensor)
      }
      vectors.free(device)
    },
  }
}

function allocateCache(device: Device, model: Model, batch: number, capacity: number) {
  const perLayer = (what: string) =>
    Array.from({ length: model.layers }, (_, layer) =>
      device.tensor('activations', `${what} of layer ${layer}`, batch * capacity, model.hidden),
    )
  return {
    capacity,
    keys: perLayer('keys'),
    values: perLayer('values'),
    mask: device.tensor('activations', 'cache mask', batch, capacity),
  }
}

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
