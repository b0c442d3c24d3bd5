// linear, crossEntropy and logits of the cpu device, a tile at a time: which rows and which version of
// the weights meet in one call of products.ts. Probes that share the weights go together, so that the
// library packs a tile once; those that do not go side by side, each on its share of the threads. How
// addends join in is said in addends.ts.

import type { Addend, Rows, Tensor, Tile, Weights } from '../device.ts'
import { biasOf, runsOf, shareOf } from './addends.ts'
import type { AddendScratch, Biases, Run, Share } from './addends.ts'
import type { Context } from './compute.ts'
import { addTile } from './head.ts'
import { headElements, MOST_LANES } from './memory.ts'
import { runsBeside, type GemmSize, type Start } from './products.ts'
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
export function linearTile(
  c: Context,
  call: TileCall,
  x: Tensor,
  bias: Tensor | null,
  y: Tensor,
  relu: boolean,
): Promise<void> {
  const biases = bias && { data: c.rows(bias, 0, call.at.probes), cols: bias.cols }
  return call.weights.transposed
    ? accumulate(c, call, x, biases, y)
    : intoColumns(c, call, x, biases, y, relu)
}

/** A product goes to y at once if the tile spans y, else through scratch. */
async function intoColumns(
  c: Context,
  { tile, versions, at, addend }: TileCall,
  x: Tensor,
  biases: Biases | null,
  y: Tensor,
  relu: boolean,
): Promise<void> {
  const { product } = c.scratch()
  const whole = tile.rows === y.cols
  const share = addend && shareOf(addend, tile, biases, at, projected(c, addend, at))
  const together = versions.shared && (share !== undefined || !biases)
  const lanes = lanesFor(c, at, together || share !== undefined, {
    m: at.rows,
    n: tile.rows,
    k: x.cols,
  })
  const room = Math.floor(product.length / lanes)
  const most = Math.min(whole ? Infinity : room / tile.rows, mostRows(c, share))
  await eachRun(runsOf(at, together, most), lanes, async (run, lane) => {
    const size = { m: run.rows, n: tile.rows, k: x.cols }
    const target = c.rows(y, run.row, run.rows)
    const own = product.subarray(lane * room, (lane + 1) * room)
    const into = whole ? target : partOf(own, run.rows * tile.rows)
    await share?.begin(c.ops, run, into)
    const start = startOf(share, biases, tile, run)
    const from = c.rows(x, run.row, run.rows)
    await c.ops.gemm(from, versions.of(run.probe), into, size, { start, relu, lanes })
    if (!whole) copyColumns(into, tile, target, y.cols)
  })
}

/** How many runs go side by side: one where all rows go together or an addend takes its scratch. */
function lanesFor(c: Context, at: Rows, alone: boolean, size: GemmSize): number {
  if (alone || !runsBeside(size)) return 1
  return Math.min(MOST_LANES, c.ops.threads, at.probes)
}

/** Runs in their order, `lanes` of them at a time; returns when none is under way, also on error. */
async function eachRun(
  runs: readonly Run[],
  lanes: number,
  body: (run: Run, lane: number) => Promise<void>,
): Promise<void> {
  for (let i = 0; i < runs.length; i += lanes) {
    const ended = await Promise.allSettled(runs.slice(i, i + lanes).map(body))
    for (const one of ended) if (one.status === 'rejected') throw one.reason
  }
}

/** y += x[:, tile] * tile; the matrix's first tile also sets y to bias and addend. */
async function accumulate(
  c: Context,
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
  const most = Math.min(whole ? Infinity : product.length / tile.rows, mostRows(c, share))
  for (const run of runsOf(at, together, most)) {
    const size = { m: run.rows, n: y.cols, k: tile.rows }
    const target = c.rows(y, run.row, run.rows)
    const all = c.rows(x, run.row, run.rows)
    const from = whole ? all : takeColumns(all, x.cols, tile, product)
    await share?.begin(c.ops, run, target)
    const start: Start = first ? startOf(share, biases, columns, run) : 'there'
    await c.ops.gemm(from, versions.of(run.probe), target, size, { start, transposed: true })
  }
}

/** Joins a tile of the vocabulary to the state of every row. */
export async function headTile(
  c: Context,
  { tile, versions, at, addend }: TileCall,
  x: Tensor,
  targets: Uint32Array,
  state: Tensor,
): Promise<void> {
  if (targets.length !== at.probes * at.rows) {
    throw new Error(`cpu device: ${targets.length} targets for ${at.probes}x${at.rows} rows`)
  }
  const share = addend && shareOf(addend, tile, null, at, projected(c, addend, at))
  const { logits, room } = c.scratch()
  const lanes = lanesFor(c, at, versions.shared || share !== undefined, {
    m: at.rows,
    n: tile.rows,
    k: x.cols,
  })
  const part = Math.floor(logits.length / lanes)
  const most = Math.min(headElements(tile.rows) / tile.rows / lanes, mostRows(c, share))
  await eachRun(runsOf(at, versions.shared, most), lanes, async (run, lane) => {
    const own = (array: Float32Array) => array.subarray(lane * part, (lane + 1) * part)
    const memory = { logits: own(logits), room: own(room) }
    await share?.begin(c.ops, run, memory.logits)
    const rows = {
      x: c.rows(x, run.row, run.rows),
      targets: targets.subarray(run.row, run.row + run.rows),
      state: c.rows(state, run.row, run.rows),
    }
    const start = share ? 'there' : 'zero'
    await addTile(c.ops, rows, tile, versions.of(run.probe), memory, { start, lanes })
  })
}

/** Logits [P*rows, tile.rows] of one tile, in memory of their own: the caller may keep them. */
export async function logitsTile(
  c: Context,
  { tile, versions, at, addend }: TileCall,
  x: Tensor,
): Promise<Float32Array> {
  const all = new Float32Array(at.probes * at.rows * tile.rows)
  const share = addend && shareOf(addend, tile, null, at, projected(c, addend, at))
  for (const run of runsOf(at, versions.shared, mostRows(c, share))) {
    const into = all.subarray(run.row * tile.rows, (run.row + run.rows) * tile.rows)
    const size = { m: run.rows, n: tile.rows, k: x.cols }
    await share?.begin(c.ops, run, into)
    const start = startOf(share, null, tile, run)
    await c.ops.gemm(c.rows(x, run.row, run.rows), versions.of(run.probe), into, size, { start })
  }
  return all
}

/** Rows whose start values fit into scratch.blocks. */
const mostRows = (c: Context, share: Share | undefined) =>
  share ? c.scratch().blocks.length / share.rowElements : Infinity

function startOf(share: Share | undefined, biases: Biases | null, tile: Tile, run: Run): Start {
  if (share) return 'there'
  return biases ? { bias: biasOf(biases, run.probe, tile) } : 'zero'
}

/** The scratch, if it holds the rows projected for this addend. */
function projected(c: Context, addend: Addend, at: Rows): AddendScratch {
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
