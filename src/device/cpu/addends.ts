// Factored addends on the cpu device: rows taken through the right factor, and for each tile the part
// of the left factor, laid out as products.ts takes them. Biases join the left factor, for there is
// one for each probe while one product does the rows of all probes.
//
// Projected rows: low-rank [R, k + P], scaled, and behind them one column for each probe that is 1 in
// the probe's rows; Kronecker [R, n1*J, m2], factor columns first.

import {
  projectionCols,
  type Addend,
  type KroneckerAddend,
  type Rows,
  type Tile,
} from '../device.ts'
import { LEAST_ROWS } from './memory.ts'
import type { Products } from './products.ts'

export interface AddendScratch {
  /** Projected rows. */
  readonly projection: Float32Array
  /** The right factor, then the tile's part of the left one. */
  readonly factors: Float32Array
  /** Whole blocks of a Kronecker product of which a tile has a part. */
  readonly blocks: Float32Array
}

/** A bias for each probe, [P, cols] over all columns of the matrix. */
export interface Biases {
  readonly data: Float32Array
  readonly cols: number
}

/** Rows of one call: `rows` of them from `row` on, those of `probes` probes from `probe` on. */
export interface RowRun {
  readonly probe: number
  readonly probes: number
  readonly row: number
  readonly rows: number
}

/**
 * All rows at once if they are to go `together` and are at most `most`; else each probe's in runs of
 * equal length, of at most `most` rows or 64.
 */
export function runsOf(at: Rows, together: boolean, most: number): RowRun[] {
  const { probes, rows } = at
  if (together && probes * rows <= most) return [{ probe: 0, probes, row: 0, rows: probes * rows }]
  const count = Math.ceil(rows / Math.max(LEAST_ROWS, Math.floor(most)))
  const step = Math.ceil(rows / count)
  const runs: RowRun[] = []
  for (let probe = 0; probe < probes; probe++) {
    for (let row = 0; row < rows; row += step) {
      runs.push({ probe, probes: 1, row: probe * rows + row, rows: Math.min(step, rows - row) })
    }
  }
  return runs
}

/** Takes the runs of x [P*rows, K], together all its rows, through the right factor into scratch.projection. */
export async function project(
  ops: Products,
  runs: readonly RowRun[],
  rowsOf: (run: RowRun) => Promise<Float32Array>,
  addend: Addend,
  at: Rows,
  { projection, factors }: AddendScratch,
): Promise<void> {
  const R = at.probes * at.rows
  const right = factors.subarray(0, addend.right.length)
  right.set(addend.right)
  if (addend.kind === 'kronecker') {
    const { terms, m2, n1, n2 } = addend
    for (const run of runs) {
      const size = { m: run.rows * n1, n: terms * m2, k: n2 }
      const first = run.row * n1 * size.n
      const into = projection.subarray(first, first + size.m * size.n)
      await ops.gemm(await rowsOf(run), right, into, size)
    }
    return
  }
  const { rank, scales } = addend
  for (const run of runs) {
    const size = { m: run.rows, n: rank, k: right.length / rank }
    const into = projection.subarray(run.row * rank, (run.row + run.rows) * rank)
    await ops.gemm(await rowsOf(run), right, into, size)
  }
  // Rows get longer in place, so the last one moves first.
  const cols = rank + at.probes
  for (let row = R - 1; row >= 0; row--) {
    const probe = Math.floor(row / at.rows)
    for (let p = at.probes - 1; p >= 0; p--) projection[row * cols + rank + p] = p === probe ? 1 : 0
    for (let j = rank - 1; j >= 0; j--) {
      projection[row * cols + j] = projection[row * rank + j]! * scales[probe * rank + j]!
    }
  }
}

/** A tile's share of an addend. */
export interface Share {
  /** f32 elements for each row that it needs in scratch.blocks. */
  readonly rowElements: number
  /** Writes what the product of a run with the tile starts from, [run.rows, tile.rows], to `into`. */
  begin(ops: Products, run: RowRun, into: Float32Array): Promise<void>
}

/** Lays out rows `tile` of the left factor and their biases; valid until the next share. */
export function shareOf(
  addend: Addend,
  tile: Tile,
  biases: Biases | null,
  at: Rows,
  scratch: AddendScratch,
): Share {
  if (addend.kind === 'kronecker') return kroneckerShare(addend, tile, biases, at, scratch)
  const { rank } = addend
  const inner = rank + at.probes
  const left = scratch.factors.subarray(0, tile.rows * inner)
  const of = Array.from({ length: at.probes }, (_, p) => biases && biasOf(biases, p, tile))
  const own = addend.left.subarray(tile.row0 * rank, (tile.row0 + tile.rows) * rank)
  for (let n = 0, to = 0, from = 0; n < tile.rows; n++) {
    for (let j = 0; j < rank; j++) left[to++] = own[from++]!
    for (let p = 0; p < at.probes; p++) left[to++] = of[p]?.[n] ?? 0
  }
  return {
    rowElements: 0,
    begin(ops, { row, rows }, into) {
      const projected = scratch.projection.subarray(row * inner, (row + rows) * inner)
      return ops.gemm(projected, left, into, { m: rows, n: tile.rows, k: inner })
    },
  }
}

/** Whole blocks of m2 columns that cover the tile. */
function kroneckerShare(
  addend: KroneckerAddend,
  tile: Tile,
  biases: Biases | null,
  at: Rows,
  { projection, factors, blocks: room }: AddendScratch,
): Share {
  const { terms, m1, m2, n1 } = addend
  const first = Math.floor(tile.row0 / m2)
  const blocks = Math.ceil((tile.row0 + tile.rows) / m2) - first
  const inner = terms * n1
  const left = factors.subarray(0, at.probes * blocks * inner)
  for (let row = 0; row < at.probes * blocks; row++) {
    const from = (Math.floor(row / blocks) * m1 + first + (row % blocks)) * inner
    for (let t = 0; t < terms; t++) {
      for (let c = 0; c < n1; c++)
        left[row * inner + c * terms + t] = addend.left[from + t * n1 + c]!
    }
  }
  const bias = biases && tileBiases(biases, tile, at.probes, factors.subarray(left.length))
  const cols = projectionCols(addend)
  const cut = blocks * m2 !== tile.rows
  return {
    rowElements: cut ? blocks * m2 : 0,
    begin(ops, { probe, probes, row, rows }, into) {
      const factors = {
        probes,
        blocks,
        inner,
        width: m2,
        skip: tile.row0 - first * m2,
        rows: projection.subarray(row * cols, (row + rows) * cols),
        left: left.subarray(probe * blocks * inner, (probe + probes) * blocks * inner),
        bias: bias && bias.subarray(probe * tile.rows, (probe + probes) * tile.rows),
        room,
      }
      return ops.kronecker(factors, into, rows, tile.rows)
    },
  }
}

export const biasOf = ({ data, cols }: Biases, probe: number, tile: Tile) =>
  data.subarray(probe * cols + tile.row0, probe * cols + tile.row0 + tile.rows)

/** Biases of a tile's columns, [P, tile.rows]: in place if the tile has all columns, else in `room`. */
function tileBiases(biases: Biases, tile: Tile, probes: number, room: Float32Array): Float32Array {
  if (tile.rows === biases.cols) return biases.data
  for (let p = 0; p < probes; p++) room.set(biasOf(biases, p, tile), p * tile.rows)
  return room.subarray(0, probes * tile.rows)
}
