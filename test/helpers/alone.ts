// What some rows get alone, compared to what they get among others, bit for bit; and so every product of
// rows with a matrix, in which the choice of kernels must not show.

import { expect } from 'vitest'
import type { Addend, Device, Rows, Tensor } from '../../src/device/device.ts'
import type { DType } from '../../src/util/dtypes.ts'
import {
  filled,
  fixed,
  matrixOf,
  recipeOf,
  scoped,
  throughSlabs,
  tilesOver,
  values,
} from './devices.ts'

export const PROBES = 2
/** Rows of a probe, all of them and some: one, a few, 16 and 17 (kernels may change there), many. */
const R = 61
const ALL = Array.from({ length: R }, (_, i) => i)
const SOME = [
  [0],
  [R - 1],
  [18],
  [5, 6, 7],
  ALL.filter((i) => i % 4 === 1),
  ALL.filter((i) => i % 4 === 0).concat(R - 2),
  ALL.slice(11, 54),
]

/** Rows of every probe out of `all` of each. */
export function pick(data: Float32Array, rows: readonly number[], all = R): Float32Array {
  const cols = data.length / (PROBES * all)
  const picked = new Float32Array(PROBES * rows.length * cols)
  for (let p = 0; p < PROBES; p++) {
    for (const [i, row] of rows.entries()) {
      const from = (p * all + row) * cols
      picked.set(data.subarray(from, from + cols), (p * rows.length + i) * cols)
    }
  }
  return picked
}

export function expectBits(got: Float32Array, want: Float32Array, which: string): void {
  expect(got.length, which).toBe(want.length)
  const at = want.findIndex((value, i) => !Object.is(value, got[i]))
  expect([at, got[at]], which).toEqual([-1, undefined])
}

/** `make` gives [P*rows, n] for rows of a probe; some rows must get what they get among all. */
export async function expectAlone(
  device: Device,
  which: string,
  make: (d: Device, rows: readonly number[]) => Promise<Float32Array>,
): Promise<void> {
  const whole = await scoped(device, (d) => make(d, ALL))
  expect(whole.every(Number.isFinite), which).toBe(true)
  for (const rows of SOME) {
    const part = await scoped(device, (d) => make(d, rows))
    expectBits(part, pick(whole, rows), `${which}, rows ${rows.join()}`)
  }
}

const lowRank = (n: number, k: number, rank: number): Addend => ({
  kind: 'low-rank',
  rank,
  scales: values(PROBES * rank, 23),
  right: values(rank * k, 21, 0.1),
  left: values(n * rank, 22, 0.1),
})

const kronecker = (terms: number, m1: number, m2: number, n1: number, n2: number): Addend => ({
  kind: 'kronecker',
  ...{ terms, m1, m2, n1, n2 },
  right: values(terms * m2 * n2, 24, 0.1),
  left: values(PROBES * m1 * terms * n1, 25, 0.1),
})

/** N and K that kernels of four columns take, and that they do not; each with addends of all kinds. */
export const SHAPES: readonly (readonly [n: number, k: number, addends: readonly Addend[]])[] = [
  [72, 64, [lowRank(72, 64, 1), lowRank(72, 64, 8), kronecker(2, 9, 8, 8, 8)]],
  [70, 37, [lowRank(70, 37, 1), lowRank(70, 37, 5), kronecker(1, 70, 1, 1, 37)]],
]
export const RECIPES = { 'as in the file': recipeOf([0], 0), perturbed: recipeOf([0.02, -0.02], 1) }

/** Seeded rows of such numbers out of R, for every probe. */
export const inputsOf = (d: Device, rows: readonly number[], cols: number): Tensor =>
  filled(d, PROBES * rows.length, cols, pick(values(PROBES * R * cols, 1), rows))
export const atOf = (rows: readonly number[]): Rows => ({ probes: PROBES, rows: rows.length })

/** linear of such weights: every pair of its sizes, recipes and addends; each pair of them with bias and relu or without. */
export async function expectLinearAlone(
  device: Device,
  dtype: DType,
  transposed: boolean,
): Promise<void> {
  for (const [N, K, addends] of SHAPES) {
    const [cols, height] = transposed ? [N, K] : [K, N]
    for (const [i, [known, recipe]] of Object.entries(RECIPES).entries()) {
      const matrix = { ...matrixOf(dtype, cols, tilesOver(0, height, 32), recipe), transposed }
      for (const [j, addend] of [undefined, ...addends].entries()) {
        const relu = !transposed && (i + j) % 2 === 0
        const kind = addend ? `${addend.kind} of ${addend.right.length}` : 'no addend'
        const which = `${N} x ${K}, ${known}, ${kind}, relu ${relu}`
        await expectAlone(device, which, async (d, rows) => {
          const x = inputsOf(d, rows, K)
          const y = d.tensor('activations', 'y', x.rows, N)
          const bias = relu || transposed ? fixed(d, PROBES, N, values(PROBES * N, 2)) : null
          if (addend) await d.project(x, addend, atOf(rows))
          await throughSlabs(d, matrix, 2, (slot) =>
            d.linear(x, slot, bias, y, atOf(rows), { relu, ...(addend && { addend }) }),
          )
          return d.read(y, 0, y.rows)
        })
      }
    }
  }
}
