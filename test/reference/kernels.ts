// The arithmetic of the f64 reference device that knows nothing of tensors and slabs: norms,
// attention, activations and what factored addends add. Plain loops over f64 arrays.

import type { Activation, Addend, Rows } from '../../src/device/device.ts'
import type { AttentionDims, QueryGroups } from '../../src/device/packed.ts'

/** What an addend adds to column n of a row. */
export type Sums = (row: number, n: number) => number

export function factoredSums(addend: Addend, x: Float64Array, cols: number, at: Rows): Sums {
  if (addend.kind === 'low-rank') {
    const { rank, right, left, scales } = addend
    const projection = new Float64Array(at.probes * at.rows * rank)
    projection.forEach((_, i) => {
      const [row, j] = [Math.floor(i / rank), i % rank]
      let sum = 0
      for (let k = 0; k < cols; k++) sum += x[row * cols + k]! * right[j * cols + k]!
      projection[i] = sum * scales[Math.floor(row / at.rows) * rank + j]!
    })
    return (row, n) => {
      let sum = 0
      for (let j = 0; j < rank; j++) sum += projection[row * rank + j]! * left[n * rank + j]!
      return sum
    }
  }
  const { terms, m1, m2, n1, n2, right, left } = addend
  return (row, n) => {
    const [p, i, j] = [Math.floor(row / at.rows), Math.floor(n / m2), n % m2]
    let sum = 0
    for (let t = 0; t < terms; t++) {
      for (let c = 0; c < n1; c++) {
        const a = left[(p * m1 + i) * terms * n1 + t * n1 + c]!
        for (let l = 0; l < n2; l++) {
          sum += a * right[(t * m2 + j) * n2 + l]! * x[row * cols + c * n2 + l]!
        }
      }
    }
    return sum
  }
}

export function normalise(x: Float64Array, row: number, cols: number, eps: number): Float64Array {
  const values = x.subarray(row * cols, (row + 1) * cols)
  const mean = values.reduce((s, v) => s + v, 0) / cols
  const variance = values.reduce((s, v) => s + (v - mean) ** 2, 0) / cols
  return values.map((v) => (v - mean) / Math.sqrt(variance + eps))
}

export function attention(
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  y: Float64Array,
  probes: number,
  { groups, queries, keys: keyRows }: QueryGroups,
  { heads, kvHeads, headSize, scale, cap }: AttentionDims,
): void {
  const forEachQuery = (visit: (row: number, keys: readonly number[], head: number) => void) => {
    for (let p = 0; p < probes; p++) {
      for (const { query0, queries: count, keys, from, to } of groups) {
        for (let i = 0; i < count; i++) {
          const seen = [...keys.subarray(from[i], to[i])].map((key) => p * keyRows + key)
          for (let h = 0; h < heads; h++) visit(p * queries + query0 + i, seen, h)
        }
      }
    }
  }
  forEachQuery((row, keys, h) => {
    const query = (row * heads + h) * headSize
    const kvHead = Math.floor((h * kvHeads) / heads)
    const start = (key: number) => (key * kvHeads + kvHead) * headSize
    const weights = keys.map((key) => {
      let dot = 0
      for (let d = 0; d < headSize; d++) dot += q[query + d]! * k[start(key) + d]!
      return capped(dot * scale, cap)
    })
    const top = Math.max(...weights)
    const sum = weights.reduce((total, w) => total + Math.exp(w - top), 0)
    for (let d = 0; d < headSize; d++) {
      const parts = keys.map((key, j) => (Math.exp(weights[j]! - top) / sum) * v[start(key) + d]!)
      y[query + d] = parts.reduce((total, part) => total + part, 0)
    }
  })
}

/** A score or logit, capped if there is a cap. */
export const capped = (value: number, cap?: number) =>
  cap === undefined ? value : cap * Math.tanh(value / cap)

export const ACTIVATIONS: Readonly<Record<Activation, (v: number) => number>> = {
  relu: (v) => Math.max(0, v),
  gelu: (v) => 0.5 * v * (1 + erf(v / Math.SQRT2)),
  gelu_new: (v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))),
  silu: (v) => v / (1 + Math.exp(-v)),
}

/** erf by its Maclaurin series near 0 and by the continued fraction of erfc elsewhere. */
function erf(x: number): number {
  const a = Math.abs(x)
  if (a < 2.5) {
    let term = a
    let sum = a
    for (let n = 1; n < 60; n++) {
      term *= (-a * a) / n
      sum += term / (2 * n + 1)
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI)
  }
  let fraction = 0
  for (let n = 80; n > 0; n--) fraction = n / 2 / (a + fraction)
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction))
}
