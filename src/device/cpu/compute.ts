// The operations of the device contract on the cpu device: which rows, which probe and which scratch
// go to which kernel of ops.ts. Shapes are those of device.ts.

import type { Activation, Device, Rows, Slot, Tensor, Tile, Workload } from '../device.ts'
import { attend } from './attention.ts'
import { addTile } from './head.ts'
import { cpuScratch } from './memory.ts'
import type { CpuOps } from './ops.ts'
import type { Queue } from './queue.ts'
import type { CpuSlots, Version } from './slots.ts'

/** What reserve() set aside. */
export interface Scratch {
  readonly workload: Workload
  /** One probe's product with one tile. */
  readonly product: Float32Array
  readonly mask: Float32Array
  /** Elements one attention call may take, the library's own workspace included. */
  readonly attention: number
  readonly chunk: Float32Array
}

export function createScratch(workload: Workload): Scratch {
  const { product, mask, attention, chunk } = cpuScratch(workload)
  return {
    workload,
    product: new Float32Array(product),
    mask: new Float32Array(mask),
    attention,
    chunk: new Float32Array(chunk),
  }
}

export interface Context {
  readonly ops: CpuOps
  readonly slots: CpuSlots
  readonly queue: Queue
  /** Rows [row0, row0 + count) of a live tensor; throws if there are not so many. */
  rows(tensor: Tensor, row0: number, count: number): Float32Array
  scratch(): Scratch
}

type Operations = Pick<
  Device,
  | 'linear'
  | 'layerNorm'
  | 'attention'
  | 'activation'
  | 'add'
  | 'gatherRows'
  | 'crossEntropy'
  | 'logits'
>

export function createOperations(c: Context): Operations {
  const { ops, queue } = c
  const { run } = queue
  return {
    linear: (x, slot, bias, y, at, relu) =>
      eachTile(c, slot, (tile, version) => linear(c, x, tile, version, bias, y, at, relu)),
    layerNorm: (x, scale, bias, eps, y, at) =>
      run(async () => {
        for (let p = 0; p < at.probes; p++) {
          const one = scale ? c.rows(scale, p, 1) : new Float32Array(x.cols).fill(1)
          const zero = bias ? c.rows(bias, p, 1) : new Float32Array(x.cols)
          await ops.layerNorm(probe(c, x, p, at), one, zero, eps, probe(c, y, p, at))
        }
      }),
    attention: (q, k, v, keyMask, y, { probes, batch, tokens, heads }) =>
      run(async () => {
        const all = (t: Tensor) => c.rows(t, 0, probes * batch * tokens)
        const arrays = { q: all(q), k: all(k), v: all(v), y: all(y) }
        const shape = { sequences: probes * batch, tokens, heads, headSize: q.cols / heads }
        const masked = { ...arrays, keyMask: c.rows(keyMask, 0, batch) }
        await attend(ops, masked, shape, c.scratch())
      }),
    activation: (kind, x, at) => run(() => activation(c, kind, x, at)),
    add: (x, y, at) =>
      run(() => ops.add(c.rows(x, 0, at.probes * at.rows), c.rows(y, 0, at.probes * at.rows))),
    gatherRows: (x, indices, y) =>
      run(async () => {
        const target = c.rows(y, 0, indices.length)
        indices.forEach((row, i) => target.set(c.rows(x, row, 1), i * x.cols))
      }),
    crossEntropy: (x, slot, targets, state, at) =>
      eachTile(c, slot, (tile, version) => crossEntropy(c, x, tile, version, targets, state, at)),
    logits: (x, slot, at, sink) =>
      eachTile(c, slot, async (tile, version) => sink(tile, await logits(c, x, tile, version, at))),
  }
}

/** Claims the slab when called, so that a later discard leaves it alone, and uses it in its turn. */
async function eachTile(
  c: Context,
  slot: Slot,
  body: (tile: Tile, version: Version) => Promise<void>,
): Promise<void> {
  c.queue.check()
  const use = c.slots.take(slot)
  await c.queue.run(() => c.slots.run(use, body))
}

const probe = (c: Context, tensor: Tensor, p: number, at: Rows) =>
  c.rows(tensor, p * at.rows, at.rows)

/** A probe's product with a tile goes to y at once if the tile spans y, else through scratch. */
async function linear(
  c: Context,
  x: Tensor,
  tile: Tile,
  version: Version,
  bias: Tensor | null,
  y: Tensor,
  at: Rows,
  relu?: boolean,
): Promise<void> {
  const whole = tile.rows === y.cols
  for (let p = 0; p < at.probes; p++) {
    const target = probe(c, y, p, at)
    const addend = bias && c.rows(bias, p, 1).subarray(tile.row0, tile.row0 + tile.rows)
    const product = whole ? target : productOf(c, at, tile)
    await multiply(c, x, version, tile, p, at, addend, product, relu)
    if (!whole) copyColumns(product, tile, target, y.cols)
  }
}

const productOf = (c: Context, at: Rows, tile: Tile) => {
  const { product } = c.scratch()
  if (at.rows * tile.rows > product.length) {
    throw new Error('cpu device: a product is larger than what reserve() was told')
  }
  return product.subarray(0, at.rows * tile.rows)
}

async function multiply(
  c: Context,
  x: Tensor,
  version: Version,
  tile: Tile,
  p: number,
  at: Rows,
  bias: Float32Array | null,
  product: Float32Array,
  relu?: boolean,
): Promise<void> {
  const size = { m: at.rows, n: tile.rows, k: x.cols }
  await c.ops.gemm(probe(c, x, p, at), version(p), bias, product, size, relu)
}

function copyColumns(product: Float32Array, tile: Tile, y: Float32Array, yCols: number): void {
  const rows = product.length / tile.rows
  for (let row = 0; row < rows; row++) {
    y.set(product.subarray(row * tile.rows, (row + 1) * tile.rows), row * yCols + tile.row0)
  }
}

async function activation(c: Context, kind: Activation, x: Tensor, at: Rows): Promise<void> {
  const array = c.rows(x, 0, at.probes * at.rows)
  const { chunk } = c.scratch()
  for (let i = 0; i < array.length; i += chunk.length) {
    const part = array.subarray(i, i + chunk.length)
    const result = chunk.subarray(0, part.length)
    await c.ops.activation(kind, part, result)
    part.set(result)
  }
}

async function crossEntropy(
  c: Context,
  x: Tensor,
  tile: Tile,
  version: Version,
  targets: Uint32Array,
  state: Tensor,
  at: Rows,
): Promise<void> {
  if (targets.length !== at.probes * at.rows) {
    throw new Error(`cpu device: ${targets.length} targets for ${at.probes}x${at.rows} rows`)
  }
  for (let p = 0; p < at.probes; p++) {
    const wanted = targets.subarray(p * at.rows, (p + 1) * at.rows)
    const rows = { x: probe(c, x, p, at), targets: wanted, state: probe(c, state, p, at) }
    await addTile(c.ops, rows, tile, version(p), x.cols)
  }
}

/** Logits [P*rows, tile.rows] of one tile, in memory of their own: the caller may keep them. */
async function logits(
  c: Context,
  x: Tensor,
  tile: Tile,
  version: Version,
  at: Rows,
): Promise<Float32Array> {
  const elements = at.rows * tile.rows
  const all = new Float32Array(at.probes * elements)
  for (let p = 0; p < at.probes; p++) {
    const product = all.subarray(p * elements, (p + 1) * elements)
    await multiply(c, x, version, tile, p, at, null, product)
  }
  return all
}
