// The device contract in plain f64 loops, for tests only. Weights are decoded and perturbed in f32 by
// noise.ts beside this file, exactly as every device must; all arithmetic after that is f64.
// It keeps no scratch and no ledger, and does each operation when it is called. f16 tensors hold what was
// written rounded, results exactly.

import {
  checkAttention,
  checkHead,
  checkLinear,
  type Addend,
  type Device,
  type Rows,
  type Slot,
  type Tensor,
  type Tile,
  type Weights,
} from '../../src/device/device.ts'
import type { MemoryModel } from '../../src/device/memory.ts'
import { fromHalves, toHalves } from '../../src/device/f16.ts'
import { createLedger } from '../../src/device/ledger.ts'
import { applyTerms, probeVersion } from './noise.ts'
import { DTYPE_BYTES, type DType } from '../../src/util/dtypes.ts'
import { ACTIVATIONS, attention, capped, factoredSums, normalise, type Sums } from './kernels.ts'

/** A device whose tensors are f64; `exact` reads them without rounding. */
export interface ReferenceDevice extends Device {
  exact(tensor: Tensor): Float64Array
}

interface SlotState {
  bytes: Uint8Array
  weights?: Weights
}

const UNLIMITED: MemoryModel = {
  maxSlabBytes: Infinity,
  maxAllocationBytes: Infinity,
  slotBytes: (bytes) => bytes,
  stagingBytes: () => 0,
  scratch: () => [],
}

export function openReference(): ReferenceDevice {
  const tensors = new Map<Tensor, Float64Array>()
  const slots = new Map<Slot, SlotState>()
  const of = (tensor: Tensor) => tensors.get(tensor)!
  const take = (slot: Slot): { weights: Weights; bytes: Uint8Array } => {
    const state = slots.get(slot)!
    const { weights, bytes } = state
    if (!weights) throw new Error(`reference: slot ${slot.label} is not committed`)
    delete state.weights
    return { weights, bytes }
  }
  let projected: { addend: Addend; sums: Sums } | undefined
  const sumsOf = (addend: Addend | undefined): Sums => {
    if (!addend) return () => 0
    if (projected?.addend !== addend) throw new Error('reference: project() comes first')
    return projected.sums
  }
  return {
    info: { kind: 'cpu', name: 'reference', detail: 'f64 loops', software: true },
    ledger: createLedger(),
    memory: UNLIMITED,
    prefersF32: false,
    sharesCores: true,
    stagesInPlace: true,
    exact: of,
    tensor(_category, label, rows, cols, dtype = 'F32') {
      const tensor: Tensor = { label, dtype, rows, cols }
      tensors.set(tensor, new Float64Array(rows * cols))
      return tensor
    },
    view(owner, label, first, rows, cols) {
      const tensor: Tensor = { label, dtype: owner.dtype, rows, cols }
      tensors.set(tensor, of(owner).subarray(first, first + rows * cols))
      return tensor
    },
    slot(_category, label, bytes) {
      const slot: Slot = { label, bytes }
      slots.set(slot, { bytes: new Uint8Array(bytes) })
      return slot
    },
    free(memory) {
      tensors.delete(memory as Tensor)
      slots.delete(memory as Slot)
    },
    reserve() {},
    write(tensor, data, row0 = 0) {
      const kept = tensor.dtype === 'F16' ? fromHalves(toHalves(data)) : data
      of(tensor).set(kept, row0 * tensor.cols)
    },
    read: async (t, row0, rows) =>
      Float32Array.from(of(t).subarray(row0 * t.cols, (row0 + rows) * t.cols)),
    stage: async (slot, bytes) => slots.get(slot)!.bytes.subarray(0, bytes),
    commit(slot, weights) {
      Object.assign(slots.get(slot)!, { weights })
    },
    discard(slot) {
      delete slots.get(slot)!.weights
    },
    async project(x, addend, at) {
      projected = { addend, sums: factoredSums(addend, of(x), x.cols, at) }
    },
    async linear(x, slot, bias, y, at, { relu = false, addend } = {}) {
      const start = (row: number, n: number, p: number) =>
        (bias ? of(bias)[p * y.cols + n]! : 0) + sumsOf(addend)(row, n)
      const slab = take(slot)
      checkLinear(slab.weights, relu)
      if (slab.weights.transposed) {
        accumulate(of(x), x.cols, slab, at, of(y), start)
        return
      }
      forEachLogit(of(x), x.cols, slab, at, (row, n, p, value) => {
        const sum = value + start(row, n, p)
        of(y)[row * y.cols + n] = relu && sum < 0 ? 0 : sum
      })
    },
    async layerNorm(x, scale, bias, eps, y, at) {
      for (let row = 0; row < at.probes * at.rows; row++) {
        const p = Math.floor(row / at.rows)
        const affine = (t: Tensor | null, c: number, none: number) =>
          t ? of(t)[p * x.cols + c]! : none
        normalise(of(x), row, x.cols, eps).forEach((v, c) => {
          of(y)[row * x.cols + c] = v * affine(scale, c, 1) + affine(bias, c, 0)
        })
      }
    },
    async rmsNorm(x, scale, eps, y, at, { offset = 0 } = {}) {
      const D = scale.cols
      const groups = (at.rows * x.cols) / D
      for (let group = 0; group < at.probes * groups; group++) {
        const values = of(x).subarray(group * D, (group + 1) * D)
        const size = Math.sqrt(values.reduce((s, v) => s + v * v, 0) / D + eps)
        const own = Math.floor(group / groups) * D
        values.forEach((v, c) => {
          of(y)[group * D + c] = (v / size) * (of(scale)[own + c]! + offset)
        })
      }
    },
    async rope(x, table, headSize, at) {
      const half = table.cols / 2
      for (let row = 0; row < at.probes * at.rows; row++) {
        const angles = of(table).subarray((row % at.rows) * table.cols)
        for (let head = row * x.cols; head < (row + 1) * x.cols; head += headSize) {
          for (let i = 0; i < half; i++) {
            const [a, b] = [of(x)[head + i]!, of(x)[head + half + i]!]
            const [c, s] = [angles[i]!, angles[half + i]!]
            of(x)[head + i] = a * c - b * s
            of(x)[head + half + i] = b * c + a * s
          }
        }
      }
    },
    async gate(kind, x, y, at) {
      for (let i = 0; i < at.probes * at.rows * x.cols; i++) {
        of(y)[i] = ACTIVATIONS[kind](of(y)[i]!) * of(x)[i]!
      }
    },
    async attention(q, k, v, y, probes, sees, dims) {
      checkAttention(q, k, dims)
      attention(of(q), of(k), of(v), of(y), probes, sees, dims)
    },
    async activation(kind, x, at) {
      const array = of(x).subarray(0, at.probes * at.rows * x.cols)
      array.forEach((v, i) => (array[i] = ACTIVATIONS[kind](v)))
    },
    async add(x, y, at) {
      for (let i = 0; i < at.probes * at.rows * x.cols; i++) of(y)[i]! += of(x)[i]!
    },
    async copyColumns(x, col0, y, at) {
      for (let row = 0; row < at.probes * at.rows; row++) {
        const first = row * x.cols + col0
        of(y).set(of(x).subarray(first, first + y.cols), row * y.cols)
      }
    },
    async gatherRows(x, indices, y) {
      indices.forEach((from, to) => {
        of(y).set(of(x).subarray(from * x.cols, (from + 1) * x.cols), to * x.cols)
      })
    },
    async scatterRows(x, indices, y) {
      indices.forEach((to, from) => {
        of(y).set(of(x).subarray(from * x.cols, (from + 1) * x.cols), to * x.cols)
      })
    },
    async crossEntropy(x, slot, targets, state, at, { addend, cap } = {}) {
      const [slab, sums] = [take(slot), sumsOf(addend)]
      checkHead(slab.weights)
      const wanted = state.cols - 2
      forEachLogit(of(x), x.cols, slab, at, (row, n, _p, product) => {
        const value = capped(product + sums(row, n), cap)
        const s = of(state).subarray(row * state.cols, (row + 1) * state.cols)
        const top = Math.max(s[0]!, value)
        s[1] = s[1]! * Math.exp(s[0]! - top) + Math.exp(value - top)
        s[0] = top
        for (let t = 0; t < wanted; t++) if (targets[row * wanted + t] === n) s[2 + t] = value
      })
    },
    async logits(x, slot, at, sink, { addend, cap } = {}) {
      const [slab, sums] = [take(slot), sumsOf(addend)]
      checkHead(slab.weights)
      for (const tile of slab.weights.tiles) {
        const data = new Float32Array(at.probes * at.rows * tile.rows)
        forEachLogit(of(x), x.cols, slab, at, (row, n, _p, value) => {
          if (within(tile, n))
            data[row * tile.rows + n - tile.row0] = capped(value + sums(row, n), cap)
        })
        sink(tile, data)
      }
    },
    async sync() {},
    async close() {
      tensors.clear()
      slots.clear()
    },
  }
}

const within = (tile: Tile, row: number) => row >= tile.row0 && row < tile.row0 + tile.rows

/** x[row] . W_p[n] for every row of every probe and every row n of the slab. */
function forEachLogit(
  x: Float64Array,
  cols: number,
  slab: { weights: Weights; bytes: Uint8Array },
  at: Rows,
  visit: (row: number, n: number, probe: number, value: number) => void,
): void {
  const row0 = slab.weights.tiles[0]!.row0
  for (let p = 0; p < at.probes; p++) {
    const w = perturbed(slab.bytes, slab.weights, p)
    for (let r = 0; r < at.rows; r++) {
      const row = p * at.rows + r
      for (let n = 0; n < w.length / cols; n++) {
        let sum = 0
        for (let k = 0; k < cols; k++) sum += x[row * cols + k]! * w[n * cols + k]!
        visit(row, row0 + n, p, sum)
      }
    }
  }
}

/** y += x[:, slab] * slab, or start + that for the first slab of a transposed matrix. */
function accumulate(
  x: Float64Array,
  cols: number,
  slab: { weights: Weights; bytes: Uint8Array },
  at: Rows,
  y: Float64Array,
  start: (row: number, n: number, probe: number) => number,
): void {
  const N = slab.weights.cols
  const row0 = slab.weights.tiles[0]!.row0
  for (let p = 0; p < at.probes; p++) {
    const w = perturbed(slab.bytes, slab.weights, p)
    for (let row = p * at.rows; row < (p + 1) * at.rows; row++) {
      for (let n = 0; n < N; n++) {
        let sum = row0 === 0 ? start(row, n, p) : y[row * N + n]!
        for (let k = 0; k < w.length / N; k++) sum += x[row * cols + row0 + k]! * w[k * N + n]!
        y[row * N + n] = sum
      }
    }
  }
}

/** The f32 weights of a whole slab for probe p, or for all if the recipe has a single scale. */
export function perturbed(bytes: Uint8Array, weights: Weights, p: number): Float32Array {
  const { dtype, cols, tiles, recipe } = weights
  const count = tiles.reduce((sum, t) => sum + t.rows, 0) * cols
  const first = tiles[0]!.row0 * cols
  const w = decode(bytes, dtype, count)
  applyTerms(w, first, recipe)
  return probeVersion(w, first, recipe, recipe.scales.length === 1 ? 0 : p)
}

function decode(bytes: Uint8Array, dtype: DType, count: number): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const size = DTYPE_BYTES[dtype]
  return Float32Array.from({ length: count }, (_, i) => {
    if (dtype === 'F32') return view.getFloat32(i * size, true)
    const half = view.getUint16(i * size, true)
    return dtype === 'F16' ? halfToFloat(half) : bfloatToFloat(half)
  })
}

const bfloatToFloat = (h: number) => new Float32Array(Uint32Array.of(h << 16).buffer)[0]!

/** IEEE 754 binary16 by its definition. */
function halfToFloat(h: number): number {
  const sign = h & 0x8000 ? -1 : 1
  const exponent = (h >> 10) & 31
  const fraction = h & 1023
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
