// linear, crossEntropy and logits of the cpu device, a tile at a time: which rows and which version of
// the weights meet in one call of products.ts. Probes that share the weights go together, so that the
// library packs a tile once; those that do not go one after the other. How addends join in is said in
// addends.ts.

import {
  checkHead,
  checkLinear,
  type Addend,
  type Rows,
  type Tensor,
  type Tile,
  type Weights,
} from '../device.ts'
import {
  biasOf,
  runsOf,
  shareOf,
  type AddendScratch,
  type Biases,
  type RowRun,
  type Share,
} from './addends.ts'
import type { CpuContext } from './scratch.ts'
import { mostRows as rowsAtOnce, placeFor, keep, widened } from './f16.ts'
import { addTile } from './head.ts'
import { headElements, widenedRows } from './memory.ts'
import type { Start } from './products.ts'
import type { Versions } from './slots.ts'

/** One tile, its weights and what is added to their product. */
export interface TileCall {
  readonly weights: Weights
  readonly tile: Tile
  readonly versions: Versions
  readonly at: Rows
  readonly addend: Addend | undefined
}

/** Product of a tile: rows of a matrix into columns of y, or rows of a transposed one over all of y. */
export async function linearTile(
  c: CpuContext,
  call: TileCall,
  x: Tensor,
  bias: Tensor | null,
  y: Tensor,
  relu: boolean,
): Promise<void> {
  checkLinear(call.weights, relu)
  const biases = bias && { data: c.rows(bias, 0, call.at.probes), cols: bias.cols }
  await (call.weights.transposed
    ? accumulate(c, call, x, biases, y)
    : intoColumns(c, call, x, biases, y, relu))
}

/** A product goes to y at once if the tile spans y, else through scratch. */
async function intoColumns(
  c: CpuContext,
  { tile, versions, at, addend }: TileCall,
  x: Tensor,
  biases: Biases | null,
  y: Tensor,
  relu: boolean,
): Promise<void> {
  const { product, wide } = c.scratch()
  const whole = tile.rows === y.cols && y.dtype === 'F32'
  const share = addend && shareOf(addend, tile, biases, at, projected(c, addend, at))
  const together = versions.shared && (share !== undefined || !biases)
  const room = whole ? Infinity : product.length / tile.rows
  const most = Math.min(room, mostRows(c, share), atOnce(x, tile))
  for (const run of runsOf(at, together, most)) {
    const size = { m: run.rows, n: tile.rows, k: x.cols }
    const into = whole ? c.rows(y, run.row, run.rows) : partOf(product, run.rows * tile.rows)
    await share?.begin(c.ops, run, into)
    const start = startOf(share, biases, tile, run)
    const from = await widened(c, x, run.row, run.rows, wide)
    await c.ops.gemm(from, versions.of(run.probe), into, size, { start, relu })
    if (whole) continue
    if (y.dtype === 'F32') copyColumns(into, tile, c.rows(y, run.row, run.rows), y.cols)
    else {
      const target = c.halves(y, run.row, run.rows)
      await c.ops.narrowColumns(into, target, y.cols, tile.row0, wide)
    }
  }
}

/** y += x[:, tile] * tile; the matrix's first tile also sets y to bias and addend. */
async function accumulate(
  c: CpuContext,
  { tile, versions, at, addend }: TileCall,
  x: Tensor,
  biases: Biases | null,
  y: Tensor,
): Promise<void> {
  const { product } = c.scratch()
  const [first, whole] = [tile.row0 === 0, tile.rows === x.cols]
  const columns = { row0: 0, rows: y.cols }
  const share =
    first && addend ? shareOf(addend, columns, biases, at, projected(c, addend, at)) : undefined
  const together = versions.shared && (!first || share !== undefined || !biases)
  const most = Math.min(
    whole ? Infinity : product.length / tile.rows,
    mostRows(c, share),
    atOnce(x, tile),
    rowsAtOnce(y),
  )
  for (const run of runsOf(at, together, most)) {
    const size = { m: run.rows, n: y.cols, k: tile.rows }
    const from = await columnsOf(c, x, run, tile)
    const target = first
      ? placeFor(c, y, run.row, run.rows, product)
      : await widened(c, y, run.row, run.rows, product)
    await share?.begin(c.ops, run, target)
    const start: Start = first ? startOf(share, biases, columns, run) : 'there'
    await c.ops.gemm(from, versions.of(run.probe), target, size, { start, transposed: true })
    await keep(c, target, y, run.row, run.rows)
  }
}

/** Joins a tile of the vocabulary to the state of every row. */
export async function headTile(
  c: CpuContext,
  { weights, tile, versions, at, addend }: TileCall,
  x: Tensor,
  targets: Uint32Array,
  state: Tensor,
  cap?: number,
): Promise<void> {
  checkHead(weights)
  const each = state.cols - 2
  if (targets.length !== at.probes * at.rows * each) {
    const rows = `${at.probes}x${at.rows} rows, ${each} each`
    throw new Error(`cpu device: ${targets.length} targets for ${rows}`)
  }
  const share = addend && shareOf(addend, tile, null, at, projected(c, addend, at))
  const { logits, room, wide } = c.scratch()
  const most = Math.min(headElements(tile.rows) / tile.rows, mostRows(c, share), atOnce(x, tile))
  const memory = { logits, room }
  for (const run of runsOf(at, versions.shared, most)) {
    await share?.begin(c.ops, run, logits)
    const rows = {
      x: await widened(c, x, run.row, run.rows, wide),
      rows: run.rows,
      targets: targets.subarray(run.row * each, (run.row + run.rows) * each),
      state: c.rows(state, run.row, run.rows),
    }
    const start = share ? 'there' : 'zero'
    await addTile(c.ops, rows, tile, versions.of(run.probe), memory, { start, cap })
  }
}

/** Logits [P*rows, tile.rows] of one tile, in memory of their own: the caller may keep them. */
export async function logitsTile(
  c: CpuContext,
  { weights, tile, versions, at, addend }: TileCall,
  x: Tensor,
  cap?: number,
): Promise<Float32Array> {
  checkHead(weights)
  const all = new Float32Array(at.probes * at.rows * tile.rows)
  const share = addend && shareOf(addend, tile, null, at, projected(c, addend, at))
  const most = Math.min(mostRows(c, share), atOnce(x, tile))
  for (const run of runsOf(at, versions.shared, most)) {
    const into = all.subarray(run.row * tile.rows, (run.row + run.rows) * tile.rows)
    const size = { m: run.rows, n: tile.rows, k: x.cols }
    await share?.begin(c.ops, run, into)
    const start = startOf(share, null, tile, run)
    const from = await widened(c, x, run.row, run.rows, c.scratch().wide)
    await c.ops.gemm(from, versions.of(run.probe), into, size, { start })
    if (cap !== undefined) await c.ops.softCap(into, cap)
  }
  return all
}

/** Rows whose start values fit into scratch.blocks. */
const mostRows = (c: CpuContext, share: Share | undefined) =>
  share ? c.scratch().blocks.length / share.rowElements : Infinity

/** Rows of x that go together with a tile: where they are f16, as many as can be widened. */
const atOnce = (x: Tensor, tile: Tile) =>
  x.dtype === 'F32' ? Infinity : widenedRows(Math.max(x.cols, tile.rows))

function startOf(share: Share | undefined, biases: Biases | null, tile: Tile, run: RowRun): Start {
  if (share) return 'there'
  return biases ? { bias: biasOf(biases, run.probe, tile) } : 'zero'
}

/** The scratch, if it holds the rows projected for this addend. */
function projected(c: CpuContext, addend: Addend, at: Rows): AddendScratch {
  const scratch = c.scratch()
  const rows = at.probes * at.rows
  if (scratch.projected?.addend !== addend || scratch.projected.rows !== rows) {
    throw new Error('cpu device: project() comes before the calls that name its addend')
  }
  return scratch
}

function partOf(product: Float32Array, elements: number): Float32Array {
  if (elements > product.length) {
    throw new Error('cpu device: a product is larger than what reserve() was told')
  }
  return product.subarray(0, elements)
}

function copyColumns(product: Float32Array, tile: Tile, y: Float32Array, yCols: number): void {
  const rows = product.length / tile.rows
  for (let row = 0; row < rows; row++) {
    y.set(product.subarray(row * tile.rows, (row + 1) * tile.rows), row * yCols + tile.row0)
  }
}

/** Columns `tile` of a run of x, in scratch unless they are all there are, in f32. */
async function columnsOf(c: CpuContext, x: Tensor, run: RowRun, tile: Tile): Promise<Float32Array> {
  const { product, wide } = c.scratch()
  if (x.dtype === 'F16') {
    const taken = partOf(wide, run.rows * tile.rows)
    await c.ops.widen(c.halves(x, run.row, run.rows), x.cols, tile.row0, taken, tile.rows)
    return taken
  }
  const all = c.rows(x, run.row, run.rows)
  return tile.rows === x.cols ? all : takeColumns(all, x.cols, tile, product)
}

/** Columns `tile` of x, in `room`. */
function takeColumns(x: Float32Array, cols: number, tile: Tile, room: Float32Array): Float32Array {
  const rows = x.length / cols
  const taken = partOf(room, rows * tile.rows)
  for (let row = 0; row < rows; row++) {
    const start = row * cols + tile.row0
    taken.set(x.subarray(start, start + tile.rows), row * tile.rows)
  }
  return taken
}
