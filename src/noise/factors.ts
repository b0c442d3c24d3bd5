// Weights changed by factored updates: W <- fl(W*decay), then term by term and column by column of
// the left factor W <- fl(W + fl(left*right)). The order of roundings is fixed, so that folding tile
// by tile, gathering single rows and exporting give the same bits. wasm.ts applies them with SIMD,
// test/reference/noise.ts plainly.

import type { Noise, NoiseTerm } from './distributions.ts'

/** left [N, rank] * right [rank, K], both row-major. */
export interface LowRankTerm {
  readonly kind: 'low-rank'
  readonly rank: number
  /** First row that `left` holds; 0 if left out. */
  readonly row0?: number
  readonly left: Float32Array
  readonly right: Float32Array
}

/** kron(left [m1, n1], right [m2, n2]), both row-major. */
export interface KroneckerTerm {
  readonly kind: 'kronecker'
  readonly m2: number
  readonly n1: number
  readonly n2: number
  readonly left: Float32Array
  readonly right: Float32Array
}

export type FactorTerm = LowRankTerm | KroneckerTerm

/** All that happened to a matrix since it was folded last: dense terms, or decay and factors. */
export type Change =
  | { readonly kind: 'dense'; readonly noise?: undefined; readonly terms: readonly never[] }
  | { readonly kind: 'dense'; readonly noise: Noise; readonly terms: readonly NoiseTerm[] }
  | { readonly kind: 'factored'; readonly decay: number; readonly terms: readonly FactorTerm[] }

/** The change as one run of rows needs it: low-rank left factors are cut to these rows. */
export function changeOfRows(change: Change, row0: number, rows: number): Change {
  if (change.kind === 'dense') return change
  const terms = change.terms.map((term) => {
    if (term.kind === 'kronecker') return term
    const { rank } = term
    return { ...term, row0, left: term.left.slice(row0 * rank, (row0 + rows) * rank) }
  })
  return { ...change, terms }
}

export const NO_CHANGE: Change = { kind: 'dense', terms: [] }

/** Whether a change leaves every bit as it is. */
export const isNoChange = (change: Change) =>
  change.terms.length === 0 && (change.kind === 'dense' || change.decay === 1)

/**
 * The runs of `right` that row `row` of a term is made of, in order: `visit(at, count, from, scale)`
 * stands for row[at + i] += scale * right[from + i].
 */
export function eachRun(
  term: FactorTerm,
  row: number,
  cols: number,
  visit: (at: number, count: number, from: number, scale: number) => void,
): void {
  if (term.kind === 'low-rank') {
    const { rank, left, row0 = 0 } = term
    for (let c = 0; c < rank; c++) visit(0, cols, c * cols, left[(row - row0) * rank + c]!)
    return
  }
  const { m2, n1, n2, left } = term
  const [i, j] = [Math.floor(row / m2), row % m2]
  for (let c = 0; c < n1; c++) visit(c * n2, n2, j * n2, left[i * n1 + c]!)
}
