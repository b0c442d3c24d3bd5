// The arithmetic of the f64 reference device that knows nothing of tensors and slabs: norms,
// attention, activations and what factored addends add. Plain loops over f64 arrays.

import type { Activation, Addend, AttentionShape, Rows } from '../../src/device/device.ts'

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

/** A row that sees no key gets the mean of all values. */
export function attention(
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  keyMask: Float64Array,
  y: Float64Array,
  { probes, batch, tokens, heads, keys = tokens }: AttentionShape,
  cols: number,
): void {
  const size = cols / heads
  for (let s = 0; s < probes * batch; s++) {
    for (let h = 0; h < heads; h++) {
      const query = (t: number, d: number) => (s * tokens + t) * cols + h * size + d
      const key = (t: number, d: number) => (s * keys + t) * cols + h * size + d
      for (let i = 0; i < tokens; i++) {
        const weights = new Map<number, number>()
        for (let j = 0; j <= keys - tokens + i; j++) {
          if (keyMask[(s % batch) * keys + j] === 0) continue
          let dot = 0
          for (let d = 0; d < size; d++) dot += q[query(i, d)]! * k[key(j, d)]!
          weights.set(j, dot / Math.sqrt(size))
        }
        if (weights.size === 0) for (let j = 0; j < keys; j++) weights.set(j, 0)
        const top = Math.max(...weights.values())
        let sum = 0
        for (const w of weights.values()) sum += Math.exp(w - top)
        for (let d = 0; d < size; d++) {
          let value = 0
          for (const [j, w] of weights) value += (Math.exp(w - top) / sum) * v[key(j, d)]!
          y[query(i, d)] = value
        }
      }
    }
  }
}

export const ACTIVATIONS: Readonly<Record<Activation, (v: number) => number>> = {
  relu: (v) => Math.max(0, v),
  gelu: (v) => 0.5 * v * (1 + erf(v / Math.SQRT2)),
  gelu_new: (v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))),
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
