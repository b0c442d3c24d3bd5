// From a model's straight-line code to its program: the code runs once, without a device, and what it asks for
// is written down. A shape is stated where it is used and nowhere else. Where rows lie is decided
// in places.ts, by when they are in use.

import type { Activation } from '../src/device/device.ts'
import type { Matrix, Op, Program, Rows, Vector } from './model.ts'
import { placeRows, type Use } from './places.ts'

/** Rows that are being written down. */
interface Draft extends Rows {
  readonly label: string
}

interface LinearOptions {
  /** Whether there is `name`.bias; true by default. */
  readonly bias?: boolean
  /** y = max(y, 0); not for a transposed matrix, whose tiles add up. */
  readonly relu?: boolean
  /** The file holds [K, N]. */
  readonly transposed?: boolean
}

/** What a model's code calls. Results are new rows, but where it says that rows are changed in place. */
export interface Build {
  /** Rows of the table `name` [rows, cols], `offset` rows behind the ids or positions of the batch, times `scale`. */
  gather(
    name: string,
    rows: number,
    cols: number,
    by: 'ids' | 'positions',
    options?: { offset?: number; scale?: number },
  ): Rows
  /** nn.Linear: x W^T + b with W = `name`.weight [cols, x.cols]. */
  linear(x: Rows, name: string, cols: number, options?: LinearOptions): Rows
  /** The linear and f after it; a relu is part of the product where it can be. */
  activated(x: Rows, name: string, cols: number, f: Activation, options?: LinearOptions): Rows
  /** nn.LayerNorm over the columns; `weight` and `bias` say which vectors there are. */
  layerNorm(
    x: Rows,
    name: string,
    options?: { eps?: number; weight?: boolean; bias?: boolean },
  ): Rows
  /** RMS norm by `name`.weight, of `size` columns: all of them, or of each head for itself. */
  rmsNorm(x: Rows, name: string, options: { eps: number; offset?: number; size?: number }): Rows
  /** Rotary position embeddings number `rope` of the model, in place. */
  rope(x: Rows, rope: number): void
  /** y = f(y) * x, in place. */
  gate(f: Activation, x: Rows, y: Rows): void
  /** y += x, in place. */
  add(x: Rows, y: Rows): void
  /** Columns [first, first + cols) of x. */
  columns(x: Rows, first: number, cols: number): Rows
  /** Attention of this block over q, k and v: as many columns as q. `window`: only so many of the last keys. */
  attend(q: Rows, k: Rows, v: Rows, window?: number): Rows
  /**
   * To be called once in a block, between attention and the sum: the residual stream, in the last block the rows of
   * it whose logits are wanted.
   */
  wanted(h: Rows): Rows
  /** The vocabulary matrix `name` [rows, x.cols]: what the program ends with. `cap`: logits are capped. */
  head(x: Rows, name: string, rows: number, cap?: number): void
}

/** A model's code: before the blocks, one block, behind the last. Each is given the residual stream and gives it back. */
export interface Network {
  readonly layers: number
  embed(b: Build): Rows
  block(b: Build, h: Rows, layer: number): Rows
  head(b: Build, h: Rows): void
}

/** The program of a network. */
export function programOf(network: Network): Program {
  const { layers } = network
  const ops: Op[] = []
  const drafts: Draft[] = []
  const [matrices, tables, vectors]: [Matrix[], Matrix[], Vector[]] = [[], [], []]
  let block = -1

  const rowsOf = (label: string, cols: number): Rows => {
    const draft = { label, cols, buffer: drafts.length }
    drafts.push(draft)
    return draft
  }
  const lastOf = (name: string) => name.slice(name.lastIndexOf('.') + 1)
  const vector = (name: string, size: number, exists: boolean) => {
    if (exists) vectors.push({ name, size, block })
    return exists ? name : null
  }
  const put = (op: Op & { readonly y: Rows }): Rows => {
    ops.push(op)
    return op.y
  }
  const matrix = (name: string, rows: number, cols: number, transposed = false): Matrix => {
    const made = { name, rows, cols, block, ...(transposed && { transposed }) }
    matrices.push(made)
    return made
  }
  const linear: Build['linear'] = (x, name, cols, options = {}) => {
    const { bias = true, relu = false, transposed = false } = options
    const [rows, K] = transposed ? [x.cols, cols] : [cols, x.cols]
    return put({
      kind: 'linear',
      x,
      matrix: matrix(`${name}.weight`, rows, K, transposed),
      bias: vector(`${name}.bias`, cols, bias),
      relu,
      y: rowsOf(lastOf(name), cols),
    })
  }
  const b: Build = {
    gather(name, rows, cols, by, { offset = 0, scale = 1 } = {}) {
      tables.push({ name, rows, cols, block: -1 })
      return put({ kind: 'gather', table: name, by, offset, scale, y: rowsOf('h', cols) })
    },
    linear,
    activated(x, name, cols, f, options = {}) {
      const relu = f === 'relu' && !options.transposed
      const y = linear(x, name, cols, { ...options, relu })
      if (!relu) ops.push({ kind: 'activation', f, x: y })
      return y
    },
    layerNorm(x, name, { eps = 1e-5, weight = true, bias = true } = {}) {
      return put({
        kind: 'layerNorm',
        x,
        scale: vector(`${name}.weight`, x.cols, weight),
        bias: vector(`${name}.bias`, x.cols, bias),
        eps,
        y: rowsOf('norm', x.cols),
      })
    },
    rmsNorm(x, name, { eps, offset = 0, size = x.cols }) {
      const scale = `${name}.weight`
      vectors.push({ name: scale, size, block })
      return put({ kind: 'rmsNorm', x, scale, offset, eps, y: rowsOf('norm', x.cols) })
    },
    rope(x, rope) {
      ops.push({ kind: 'rope', x, rope })
    },
    gate(f, x, y) {
      ops.push({ kind: 'gate', f, x, y })
    },
    add(x, y) {
      ops.push({ kind: 'add', x, y })
    },
    columns: (x, first, cols) => put({ kind: 'columns', x, first, y: rowsOf('part', cols) }),
    attend(q, k, v, window) {
      const own = { layer: block, ...(window !== undefined && { window }) }
      return put({ kind: 'attention', ...own, q, k, v, y: rowsOf('attention', q.cols) })
    },
    wanted(h) {
      if (block < layers - 1) return h
      return put({ kind: 'wanted', x: h, y: rowsOf('h', h.cols) })
    },
    head(x, name, rows, cap) {
      const own = cap === undefined ? {} : { cap }
      ops.push({ kind: 'head', x, matrix: matrix(name, rows, x.cols), ...own })
    },
  }

  let h = network.embed(b)
  for (block = 0; block < layers; block++) {
    ops.push({ kind: 'block', block, h, spare: rowsOf('spare', h.cols) })
    h = network.block(b, h, block)
  }
  ops.push({ kind: 'block', block, h, spare: rowsOf('spare', h.cols) })
  network.head(b, h)

  const { buffers, bufferOf } = placeRows(drafts, ops.map(usesOf))
  const placed = ops.map((op) =>
    mapRows(op, (rows) => ({ cols: rows.cols, buffer: bufferOf[rows.buffer]! })),
  )
  return { ops: placed, matrices, tables, vectors, buffers }
}

/** Operations that change their only rows. */
const IN_PLACE: ReadonlySet<Op['kind']> = new Set(['activation', 'rope', 'block'])

/** What an operation reads and writes, by number. */
function usesOf(op: Op): Use {
  const reads: number[] = []
  const writes: number[] = []
  for (const [name, value] of Object.entries(op)) {
    if (!isRows(value)) continue
    if (name === 'y' || name === 'spare' || IN_PLACE.has(op.kind)) {
      writes.push(value.buffer)
    } else reads.push(value.buffer)
  }
  return { reads, writes }
}

const isRows = (value: unknown): value is Rows =>
  typeof value === 'object' && value !== null && 'buffer' in value

const mapRows = (op: Op, to: (rows: Rows) => Rows): Op =>
  Object.fromEntries(
    Object.entries(op).map(([name, value]) => [name, isRows(value) ? to(value) : value]),
  ) as unknown as Op
