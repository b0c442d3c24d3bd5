// The device memory of one batch shape: slots for weights, and the activations of a pass. What is held when,
// and how large it may be, is engine.ts.

import type { Model } from '../../models/model.ts'
import { prefixName, type PrefixPart } from '../../models/prefix.ts'
import { ropeCols } from '../../models/rope.ts'
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
import type { BatchShape } from './shape.ts'
import type { Vectors } from './vectors.ts'
import { DTYPE_BYTES } from '../util/dtypes.ts'

/** Keys and values of earlier rows behind those of a prefix, by layer [S, kvHeads*D]. */
export interface KeyValueCache {
  /** S. */
  readonly capacity: number
  readonly keys: readonly Tensor[]
  readonly values: readonly Tensor[]
}

/** Keys and values of a batch behind the model's prefix, for one layer after another. */
export interface Prefixed {
  /** n. */
  readonly tokens: number
  /** [P*(n+R), kvHeads*D]. */
  readonly keys: Tensor
  readonly values: Tensor
  /** The prefix itself, by layer: [P*n, kvHeads*D], parts of the vectors. */
  readonly prefixKeys: readonly Tensor[]
  readonly prefixValues: readonly Tensor[]
}

/** The device memory of one shape: slots for weights, and the activations of a pass. */
export interface WorkingSet {
  readonly shape: BatchShape
  readonly plan: Plan
  readonly slots: Slots
  /** By number, as the model's program has them. */
  readonly buffers: readonly Tensor[]
  /** [P*M, 2 + targets] of crossEntropy. */
  readonly lossState: Tensor
  readonly cache: KeyValueCache | null
  readonly prefixed: Prefixed | null
  /** [R, d] f32 angles of the batch's rows, by number of the model's ropes. */
  readonly ropes: readonly Tensor[]
  free(): void
}

/** Allocates what the plan says, or nothing if it fails; `reserve` of the device comes with it. */
export function allocate(
  device: Device,
  model: Model,
  vectors: Vectors,
  next: Plan,
  shape: BatchShape,
  dtype: TensorDType,
): WorkingSet {
  const own = holding(device)
  const free = () => {
    own.freeAll() // among them views of vectors
    vectors.free(device)
  }
  try {
    device.reserve(next.workload)
    vectors.allocate(device, shape.probes)
    const { probes, wanted, targets } = shape
    return {
      shape,
      plan: next,
      slots: createSlots(next, own),
      cache: allocateCache(own, model, shape, dtype),
      prefixed: allocatePrefixed(own, model, vectors, shape, dtype),
      buffers: allocateBuffers(own, model, shape, dtype),
      ropes: ropesOf(model).map((cols) => own.tensor('activations', ROPE, shape.rows, cols)),
      lossState: own.tensor('activations', 'loss state', probes * wanted, 2 + targets),
      free,
    }
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

function allocateBuffers(
  device: Memory,
  model: Model,
  { probes, rows: R }: BatchShape,
  dtype: TensorDType,
): Tensor[] {
  const rows = probes * R
  const buffers: Tensor[] = []
  for (const { label, elements, places } of arenas(model.buffers, rows, DTYPE_BYTES[dtype])) {
    const owner = device.tensor('activations', label, elements, 1, dtype)
    for (const { buffer, first } of places) {
      const own = model.buffers[buffer]!
      buffers[buffer] = device.view(owner, own.label, first, rows, own.cols)
    }
  }
  return buffers
}

/** Columns of keys and of values. */
const keyCols = ({ attention: { kvHeads, headSize } }: Model) => kvHeads * headSize

function allocateCache(
  device: Memory,
  model: Model,
  { cached }: BatchShape,
  dtype: TensorDType,
): KeyValueCache | null {
  if (cached === 0) return null
  const capacity = (model.prefixTokens ?? 0) + cached
  const perLayer = (what: string) =>
    Array.from({ length: model.layers }, (_, layer) => {
      const label = `${what} of layer ${layer}`
      return device.tensor('activations', label, capacity, keyCols(model), dtype)
    })
  return { capacity, keys: perLayer('keys'), values: perLayer('values') }
}

function allocatePrefixed(
  device: Memory,
  model: Model,
  vectors: Vectors,
  { probes, rows: R }: BatchShape,
  dtype: TensorDType,
): Prefixed | null {
  const { layers, prefixTokens: n = 0 } = model
  if (n === 0) return null
  const [rows, cols] = [probes * (n + R), keyCols(model)]
  const part = (what: PrefixPart) =>
    Array.from({ length: layers }, (_, layer) => {
      const name = prefixName(layer, what)
      return device.view(vectors.tensor(name)!, `rows of ${name}`, 0, probes * n, cols)
    })
  return {
    tokens: n,
    keys: device.tensor('activations', 'keys behind a prefix', rows, cols, dtype),
    values: device.tensor('activations', 'values behind a prefix', rows, cols, dtype),
    prefixKeys: part('keys'),
    prefixValues: part('values'),
  }
}

const ROPE = 'angles of rotary positions'
const ropesOf = ({ ropes = [] }: Model) => ropes.map(ropeCols)

/** Keys, values and angles that a pass of the shape holds beside the activation buffers. */
export function besideBuffers(model: Model, shape: BatchShape, dtype: TensorDType): Allocation[] {
  const { layers, prefixTokens: n = 0 } = model
  const { probes, rows, cached } = shape
  const of = (label: string, count: number) => {
    return { label, bytes: tensorBytes(count, keyCols(model), dtype) }
  }
  const cache =
    cached === 0
      ? []
      : Array<Allocation>(2 * layers).fill(of('the cached keys of a layer', n + cached))
  const behind =
    n === 0 ? [] : Array<Allocation>(2).fill(of('keys behind a prefix', probes * (n + rows)))
  const ropes = ropesOf(model).map((cols) => {
    return { label: ROPE, bytes: tensorBytes(rows, cols, 'F32') }
  })
  return [...cache, ...behind, ...ropes]
}
