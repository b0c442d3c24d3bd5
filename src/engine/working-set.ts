// The device memory of one batch shape: slots for weights, and activations for each batch that
// is under way at once. What is held when, and how large it may be, is engine.ts.

import type { Model } from '../../models/model.ts'
import { prefixName, type PrefixPart } from '../../models/prefix.ts'
import type { Plan } from '../../scheduler/plan.ts'
import { arenas } from '../../scheduler/arena.ts'
import { createSlots, type Slots } from '../../scheduler/slots.ts'
import {
  tensorBytes,
  type Device,
  type Slot,
  type Tensor,
  type TensorDType,
} from '../device/device.ts'
import type { Allocation } from '../device/memory.ts'
import type { Vectors } from './vectors.ts'
import { DTYPE_BYTES } from '../util/dtypes.ts'

/** Batch shape a working set is made for. */
export interface BatchShape {
  readonly probes: number
  readonly batch: number
  readonly tokens: number
  /** Positions that a key-value cache holds for each sequence (one probe), besides a prefix; absent: no cache. */
  readonly keys?: number
  /** Batches of this shape that share each slab of a pass over the weights; absent: one. */
  readonly sweep?: number
}

/** Keys and values of earlier positions, by layer [B*S, C], with the mask [B, S] of their use. */
export interface KeyValueCache {
  /** S. */
  readonly capacity: number
  readonly keys: readonly Tensor[]
  readonly values: readonly Tensor[]
  readonly mask: Tensor
}

/** Keys and values of a batch behind the model's prefix, for one layer after another. */
export interface Prefixed {
  /** n. */
  readonly tokens: number
  /** [P*B*(n+T), C]. */
  readonly keys: Tensor
  readonly values: Tensor
  /** The prefix itself, by layer: [P*n, C], parts of the vectors. */
  readonly prefixKeys: readonly Tensor[]
  readonly prefixValues: readonly Tensor[]
}

/** The activations of one batch. */
export interface Lane {
  readonly buffers: ReadonlyMap<string, Tensor>
  /** The mask of a batch [B, n+T] of at most the set's shape; valid until the next call. */
  keyMask(batch: number, keys: number): Tensor
  /** [R, 3] of crossEntropy. */
  readonly lossState: Tensor
  readonly cache: KeyValueCache | null
  readonly prefixed: Prefixed | null
}

/** The device memory of one batch shape. */
export interface WorkingSet {
  readonly shape: BatchShape
  readonly plan: Plan
  readonly slots: Slots
  /** One for each batch of a sweep, else one. */
  readonly lanes: readonly Lane[]
  free(): void
}

/** Whether a set for shape b serves shape a. */
export const fits = (a: BatchShape, b: BatchShape) =>
  a.probes <= b.probes &&
  a.batch <= b.batch &&
  a.tokens <= b.tokens &&
  (a.keys ?? 0) <= (b.keys ?? 0) &&
  (a.sweep ?? 1) <= (b.sweep ?? 1)

/** A shape that both fit in. */
export const largest = (a: BatchShape, b: BatchShape): BatchShape => ({
  probes: Math.max(a.probes, b.probes),
  batch: Math.max(a.batch, b.batch),
  tokens: Math.max(a.tokens, b.tokens),
  ...((a.keys ?? b.keys) && { keys: Math.max(a.keys ?? 0, b.keys ?? 0) }),
})

/** Allocates what the plan says, or nothing if it fails; `reserve` of the device comes with it. */
export function allocate(
  device: Device,
  model: Model,
  vectors: Vectors,
  next: Plan,
  shape: BatchShape,
  dtype: TensorDType,
): WorkingSet {
  const rows = next.workload.probes * next.workload.rows
  const own = holding(device)
  const free = () => {
    own.freeAll() // among them views of vectors
    vectors.free(device)
  }
  try {
    device.reserve(next.workload)
    vectors.allocate(device, shape.probes)
    const slots = createSlots(next, own)
    const lanes = Array.from({ length: shape.sweep ?? 1 }, () =>
      allocateLane(own, model, vectors, shape, rows, dtype),
    )
    return { shape, plan: next, slots, lanes, free }
  } catch (error) {
    free()
    throw error
  }
}

type Memory = Pick<Device, 'tensor' | 'view' | 'slot' | 'free'>

/** The device's memory calls, and one that frees what was made by them. */
function holding(device: Memory): Memory & { freeAll(): void } {
  const held = new Set<Tensor | Slot>()
  const hold = <M extends Tensor | Slot>(memory: M): M => {
    held.add(memory)
    return memory
  }
  const free = (memory: Tensor | Slot) => {
    held.delete(memory)
    device.free(memory)
  }
  return {
    tensor: (...request) => hold(device.tensor(...request)),
    view: (...request) => hold(device.view(...request)),
    slot: (...request) => hold(device.slot(...request)),
    free,
    freeAll() {
      for (const memory of [...held].reverse()) free(memory) // views before what they look at
    },
  }
}

function allocateLane(
  device: Memory,
  model: Model,
  vectors: Vectors,
  shape: BatchShape,
  rows: number,
  dtype: TensorDType,
): Lane {
  const { prefixTokens = 0 } = model
  let mask = device.tensor('activations', 'key mask', shape.batch, prefixTokens + shape.tokens)
  const cache =
    shape.keys === undefined
      ? null
      : allocateCache(device, model, shape.batch, prefixTokens + shape.keys, dtype)
  const prefixed =
    prefixTokens === 0 ? null : allocatePrefixed(device, model, vectors, shape, dtype)
  const buffers = new Map<string, Tensor>()
  for (const { elements, places } of arenas(model.buffers, rows, DTYPE_BYTES[dtype])) {
    const owner = device.tensor('activations', places[0]!.label, elements, 1, dtype)
    for (const { label, cols, first } of places) {
      buffers.set(label, device.view(owner, label, first, rows, cols))
    }
  }
  const lossState = device.tensor('activations', 'loss state', rows, 3)
  return {
    buffers,
    lossState,
    cache,
    prefixed,
    keyMask(batch: number, keys: number) {
      if (mask.rows !== batch || mask.cols !== keys) {
        device.free(mask)
        mask = device.tensor('activations', 'key mask', batch, keys)
      }
      return mask
    },
  }
}

function allocateCache(
  device: Memory,
  model: Model,
  batch: number,
  capacity: number,
  dtype: TensorDType,
) {
  const perLayer = (what: string) =>
    Array.from({ length: model.layers }, (_, layer) =>
      device.tensor(
        'activations',
        `${what} of layer ${layer}`,
        batch * capacity,
        model.hidden,
        dtype,
      ),
    )
  return {
    capacity,
    keys: perLayer('keys'),
    values: perLayer('values'),
    mask: device.tensor('activations', 'cache mask', batch, capacity),
  }
}

function allocatePrefixed(
  device: Memory,
  model: Model,
  vectors: Vectors,
  { probes, batch, tokens }: BatchShape,
  dtype: TensorDType,
): Prefixed {
  const { hidden, layers, prefixTokens: n = 0 } = model
  const rows = probes * batch * (n + tokens)
  const part = (what: PrefixPart) =>
    Array.from({ length: layers }, (_, layer) => {
      const name = prefixName(layer, what)
      return device.view(vectors.tensor(name)!, `rows of ${name}`, 0, probes * n, hidden)
    })
  return {
    tokens: n,
    keys: device.tensor('activations', 'keys behind a prefix', rows, hidden, dtype),
    values: device.tensor('activations', 'values behind a prefix', rows, hidden, dtype),
    prefixKeys: part('keys'),
    prefixValues: part('values'),
  }
}

/** Keys and values that a batch of the shape holds beside the activation buffers, and their masks. */
export function keyValues(model: Model, shape: BatchShape, dtype: TensorDType): Allocation[] {
  const { hidden, layers, prefixTokens: n = 0 } = model
  const { probes, batch, tokens, keys } = shape
  const of = (label: string, rows: number) => ({ label, bytes: tensorBytes(rows, hidden, dtype) })
  const all: Allocation[] = []
  if (keys !== undefined) {
    const positions = batch * (n + keys)
    const one = of('the cached keys of a layer', positions)
    for (let i = 0; i < 2 * layers; i++) all.push(one)
    all.push({ label: 'the cache mask', bytes: 4 * positions })
  }
  if (n > 0) {
    const one = of('keys behind a prefix', probes * batch * (n + tokens))
    all.push(one, one, { label: 'the mask of a prefix', bytes: 4 * batch * n })
  }
  return all
}
