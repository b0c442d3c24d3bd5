// From the factors of a matrix to what a device adds to its product. Terms of the state count alike
// for all probes; a step's fresh directions count with each probe's scale. A matrix whose file is
// transposed has its factors transposed here.

import type { Addend, KroneckerAddend, LowRankAddend } from '../device/device.ts'
import type { FactorTerm, KroneckerTerm, LowRankTerm } from '../noise/factors.ts'
import type { MatrixShape, Probe } from './method.ts'

/** `fresh` holds one term per direction; a probe sees the one it names, times its scale. */
export function addendOf(
  shape: MatrixShape,
  state: readonly FactorTerm[],
  fresh: readonly FactorTerm[],
  probes: readonly Probe[],
): Addend {
  const all = [...state, ...fresh]
  const scaleOf = (probe: Probe, term: number) => {
    if (term < state.length) return 1
    return probe.direction === term - state.length ? probe.scale : 0
  }
  const scales = probes.map((probe) => all.map((_, i) => scaleOf(probe, i)))
  if (all[0]!.kind === 'low-rank') return lowRankAddend(shape, all as LowRankTerm[], scales)
  return kroneckerAddend(shape, all as KroneckerTerm[], scales)
}

function lowRankAddend(
  { rows, cols, transposed = false }: MatrixShape,
  terms: readonly LowRankTerm[],
  scales: readonly (readonly number[])[],
): LowRankAddend {
  const rank = terms.reduce((sum, term) => sum + term.rank, 0)
  const [N, K] = transposed ? [cols, rows] : [rows, cols]
  const left = new Float32Array(N * rank)
  const right = new Float32Array(rank * K)
  const columns = new Float32Array(scales.length * rank)
  let at = 0
  terms.forEach((term, i) => {
    const r = term.rank
    scales.forEach((ofProbe, p) => columns.fill(ofProbe[i]!, p * rank + at, p * rank + at + r))
    // left [N, r] and right [r, K] of the product; the file's are exchanged where it is transposed.
    if (transposed) {
      copyBlock(transpose(term.right, r, N), N, r, left, rank, at)
      right.set(transpose(term.left, K, r), at * K)
    } else {
      copyBlock(term.left, N, r, left, rank, at)
      right.set(term.right, at * K)
    }
    at += r
  })
  return { kind: 'low-rank', rank, right, left, scales: columns }
}

/** Columns [at, at + cols) of to [rows, toCols] = from [rows, cols]. */
function copyBlock(
  from: Float32Array,
  rows: number,
  cols: number,
  to: Float32Array,
  toCols: number,
  at: number,
): void {
  for (let row = 0, source = 0, target = at; row < rows; row++, target += toCols) {
    for (let c = 0; c < cols; c++) to[target + c] = from[source++]!
  }
}

/** Terms with the same right factor are one: the sum of their left factors, per probe. */
function kroneckerAddend(
  { rows, cols, transposed = false }: MatrixShape,
  terms: readonly KroneckerTerm[],
  scales: readonly (readonly number[])[],
): KroneckerAddend {
  const { m2, n1, n2 } = terms[0]!
  const m1 = rows / m2
  if (n1 * n2 !== cols) throw new Error(`Kronecker factors of ${n1} x ${n2} columns for ${cols}`)
  const rights = [...new Set(terms.map((term) => term.right))]
  const J = rights.length
  // Sizes by their place in x W^T.
  const size = transposed ? { m1: n1, m2: n2, n1: m1, n2: m2 } : { m1, m2, n1, n2 }
  const right = new Float32Array(J * m2 * n2)
  rights.forEach((b, j) => right.set(transposed ? transpose(b, m2, n2) : b, j * m2 * n2))
  const left = new Float32Array(scales.length * size.m1 * J * size.n1)
  scales.forEach((ofProbe, p) => {
    terms.forEach((term, i) => {
      const scale = ofProbe[i]!
      if (scale === 0) return
      const j = rights.indexOf(term.right)
      const a = transposed ? transpose(term.left, m1, n1) : term.left
      for (let row = 0; row < size.m1; row++) {
        const to = ((p * size.m1 + row) * J + j) * size.n1
        for (let c = 0; c < size.n1; c++) left[to + c]! += scale * a[row * size.n1 + c]!
      }
    })
  })
  return { kind: 'kronecker', terms: J, ...size, right, left }
}

/** [cols, rows] of a [rows, cols]. */
export function transpose(a: Float32Array, rows: number, cols: number): Float32Array {
  const out = new Float32Array(a.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out[j * rows + i] = a[i * cols + j]!
  return out
}
