// The two ways to factor a direction, as one shape: LOZO's U V^T, and KronZO's A (x) B, which is
// rank-1 LOZO on the rearranged matrix (Van Loan and Pitsianis). Sizes, terms, and how momentum in
// the left factor is carried from one right factor to the next.

import { DISTRIBUTIONS, type Noise } from '../noise/distributions.ts'
import type { FactorTerm } from '../noise/factors.ts'
import type { KronDims } from './kron-sizes.ts'
import type { MatrixShape } from './method.ts'

export interface Structure {
  /** Elements of the left factor (U, A), which is fresh each step. */
  readonly leftSize: number
  /** Elements of the right factor (V^T, B), which lasts a window. */
  readonly rightSize: number
  /** Factor on the update: 1/r in LOZO's paper. */
  readonly gain: number
  /** Of a product of two raw noises. */
  readonly variance: number
  term(left: Float32Array, right: Float32Array): FactorTerm
  /** The left factor N' with N' o `to` closest to N o `from`; both are raw noise. */
  carry(n: Float32Array, from: Float32Array, to: Float32Array): Float32Array
}

/** V^T is kept as [r, K]: N' = N (V^T V')/K with V of unit variance (LOZO-M, arXiv 2410.07698). */
export function lowRank(
  { rows, cols }: MatrixShape,
  rank: number,
  gain: number,
  noise: Noise,
): Structure {
  const { variance } = DISTRIBUTIONS[noise]
  return {
    leftSize: rows * rank,
    rightSize: rank * cols,
    gain,
    variance,
    term: (left, right) => ({ kind: 'low-rank', rank, left, right }),
    carry(n, from, to) {
      const overlap = new Float64Array(rank * rank)
      for (let a = 0; a < rank; a++) {
        for (let b = 0; b < rank; b++) {
          let dot = 0
          for (let k = 0; k < cols; k++) dot += from[a * cols + k]! * to[b * cols + k]!
          overlap[a * rank + b] = dot / (variance * cols)
        }
      }
      const next = new Float32Array(n.length)
      for (let i = 0; i < rows; i++) {
        for (let b = 0; b < rank; b++) {
          let sum = 0
          for (let a = 0; a < rank; a++) sum += n[i * rank + a]! * overlap[a * rank + b]!
          next[i * rank + b] = sum
        }
      }
      return next
    },
  }
}

/** N' = N <B, B'>/(m2*n2), the same rule for one direction. */
export function kronecker({ m1, m2, n1, n2 }: KronDims, noise: Noise): Structure {
  const { variance } = DISTRIBUTIONS[noise]
  return {
    leftSize: m1 * n1,
    rightSize: m2 * n2,
    gain: 1,
    variance,
    term: (left, right) => ({ kind: 'kronecker', m2, n1, n2, left, right }),
    carry(n, from, to) {
      const dot = from.reduce((sum, value, i) => sum + value * to[i]!, 0)
      const overlap = dot / (variance * m2 * n2)
      return n.map((value) => value * overlap)
    },
  }
}
