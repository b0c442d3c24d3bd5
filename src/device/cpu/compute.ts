// The operations of the device contract on the cpu device: their order, and which rows, which probe
// and which scratch go to which kernel. Matrix products are in matrices.ts. Shapes are those of
// device.ts.

import {
  checkAttention,
  checkGroups,
  checkRope,
  projectionCols,
  type Activation,
  type Addend,
  type Device,
  type Rows,
  type Slot,
  type Tensor,
} from '../device.ts'
import { project, runsOf, type RowRun } from './addends.ts'
import { attend } from './attention.ts'
import { toHalves } from '../f16.ts'
import { keep, mostRows, placeFor, widened } from './f16.ts'
import { headTile, linearTile, logitsTile, type TileCall } from './matrices.ts'
import { rotate } from './rope.ts'
import type { CpuContext } from './scratch.ts'

type Operations = Pick<
  Device,
  | 'project'
  | 'linear'
  | 'layerNorm'
  | 'rmsNorm'
  | 'rope'
  | 'attention'
  | 'activation'
  | 'gate'
  | 'add'
  | 'copyColumns'
  | 'gatherRows'
  | 'scatterRows'
  | 'crossEntropy'
  | 'logits'
>

export function createOperations(c: CpuContext): Operations {
  const { ops, queue } = c
  const { run } = queue
  return {
    project: (x, addend, at) => run(() => projectRows(c, x, addend, at)),
    linear: (x, slot, bias, y, at, { relu = false, addend } = {}) =>
      eachTile(c, slot, at, addend, (call) => linearTile(c, call, x, bias, y, relu)),
    layerNorm: (x, scale, bias, eps, y, at) =>
      run(async () => {
        const { wide, product } = c.scratch()
        for (const { probe: p, row, rows } of runsOf(at, false, mostRows(x, y))) {
          const one = scale ? c.rows(scale, p, 1) : new Float32Array(x.cols).fill(1)
          const zero = bias ? c.rows(bias, p, 1) : new Float32Array(x.cols)
          const into = placeFor(c, y, row, rows, product)
          await ops.layerNorm(await widened(c, x, row, rows, wide), one, zero, eps, into)
          await keep(c, into, y, row, rows)
        }
      }),
    rmsNorm: (x, scale, eps, y, at, { offset = 0 } = {}) =>
      run(async () => {
        checkGroups('rmsNorm', x, scale.cols)
        const { wide, product } = c.scratch()
        for (const { probe: p, row, rows } of runsOf(at, false, mostRows(x, y))) {
          const own = c.rows(scale, p, 1)
          const factors = offset === 0 ? own : own.map((value) => value + offset)
          const into = placeFor(c, y, row, rows, product)
          await ops.rmsNorm(await widened(c, x, row, rows, wide), factors, eps, into)
          await keep(c, into, y, row, rows)
        }
      }),
    rope: (x, table, headSize, at) =>
      run(async () => {
        checkRope(x, table, headSize)
        const angles = c.rows(table, 0, at.rows)
        for (const { probe, row, rows } of runsOf(at, false, mostRows(x))) {
          const first = (row - probe * at.rows) * table.cols
          const into = await widened(c, x, row, rows, c.scratch().wide)
          rotate(into, angles.subarray(first, first + rows * table.cols), x.cols, headSize)
          await keep(c, into, x, row, rows)
        }
      }),
    attention: (q, k, v, y, probes, sees, dims) =>
      run(async () => {
        checkAttention(q, k, dims)
        const all = (tensor: Tensor, rows: number) =>
          (q.dtype === 'F16' ? c.halves : c.rows)(tensor, 0, probes * rows)
        const [ofQ, ofY] = [all(q, sees.queries), all(y, sees.queries)]
        const [ofK, ofV] = [all(k, sees.keys), all(v, sees.keys)]
        const { attention: scratch } = c.scratch()
        await attend({ ops, q: ofQ, k: ofK, v: ofV, y: ofY, probes, sees, dims, scratch })
      }),
    activation: (kind, x, at) => run(() => activation(c, kind, x, at)),
    gate: (kind, x, y, at) => run(() => gate(c, kind, x, y, at)),
    add: (x, y, at) =>
      run(async () => {
        const { wide, product } = c.scratch()
        for (const { row, rows } of runsOf(at, true, mostRows(x, y))) {
          const sum = await widened(c, y, row, rows, product)
          await ops.add(await widened(c, x, row, rows, wide), sum)
          await keep(c, sum, y, row, rows)
        }
      }),
    copyColumns: (x, col0, y, at) =>
      run(async () => {
        const count = at.probes * at.rows
        const [source, target] = alike(c, x, count, y, count)
        if (col0 + y.cols > x.cols) throw new RangeError(`"${x.label}" has ${x.cols} columns`)
        for (let row = 0; row < count; row++) {
          const first = row * x.cols + col0
          target.set(source.subarray(first, first + y.cols), row * y.cols)
        }
      }),
    gatherRows: (x, indices, y) =>
      run(async () => {
        const [source, target] = alike(c, x, x.rows, y, indices.length)
        indices.forEach((row, i) => {
          if (row >= x.rows) throw new RangeError(`row ${row} of "${x.label}", which has ${x.rows}`)
          target.set(source.subarray(row * x.cols, (row + 1) * x.cols), i * x.cols)
        })
      }),
    scatterRows: (x, indices, y) =>
      run(async () => {
        const [source, target] = alike(c, x, indices.length, y, y.rows)
        indices.forEach((row, i) => {
          if (row >= y.rows) throw new RangeError(`row ${row} of "${y.label}", which has ${y.rows}`)
          target.set(source.subarray(i * x.cols, (i + 1) * x.cols), row * y.cols)
        })
      }),
    crossEntropy: (x, slot, targets, state, at, { addend, cap } = {}) =>
      eachTile(c, slot, at, addend, (call) => headTile(c, call, x, targets, state, cap)),
    logits: (x, slot, at, sink, { addend, cap } = {}) =>
      eachTile(c, slot, at, addend, async (call) =>
        sink(call.tile, await logitsTile(c, call, x, cap)),
      ),
  }
}

/** Claims the slab when called, so that a later discard leaves it alone, and uses it in its turn. */
async function eachTile(
  c: CpuContext,
  slot: Slot,
  at: Rows,
  addend: Addend | undefined,
  body: (call: TileCall) => Promise<void>,
): Promise<void> {
  c.queue.check()
  const use = c.slots.take(slot)
  const { weights } = use
  await c.queue.run(() =>
    c.slots.run(use, (tile, versions) => body({ weights, tile, versions, at, addend })),
  )
}

async function projectRows(c: CpuContext, x: Tensor, addend: Addend, at: Rows): Promise<void> {
  const scratch = c.scratch()
  const { workload } = scratch
  const rows = at.probes * at.rows
  const elements = addend.right.length + addend.left.length
  const needed = rows * (projectionCols(addend) + at.probes)
  if (needed > scratch.projection.length || elements > workload.addendElements) {
    const found = `${rows} rows of an addend of ${elements} elements`
    throw new Error(`cpu device: ${found} are more than reserve() was told`)
  }
  scratch.projected = undefined
  const rowsOf = (run: RowRun) => widened(c, x, run.row, run.rows, scratch.wide)
  await project(c.ops, runsOf(at, true, mostRows(x)), rowsOf, addend, at, scratch)
  scratch.projected = { addend, rows }
}

/** Rows of x and y in one dtype, to be copied; those of an f32 x are rounded for an f16 y. */
function alike(c: CpuContext, x: Tensor, ofX: number, y: Tensor, ofY: number) {
  if (y.dtype === 'F32') return [c.rows(x, 0, ofX), c.rows(y, 0, ofY)] as const
  const source = x.dtype === 'F16' ? c.halves(x, 0, ofX) : toHalves(c.rows(x, 0, ofX))
  return [source, c.halves(y, 0, ofY)] as const
}

async function gate(c: CpuContext, kind: Activation, x: Tensor, y: Tensor, at: Rows) {
  const { ops } = c
  const { chunk, wide, product } = c.scratch()
  if (y.dtype === 'F16') {
    for (const { row, rows } of runsOf(at, true, mostRows(x, y))) {
      const from = await widened(c, y, row, rows, wide)
      const result = product.subarray(0, from.length)
      await ops.activation(kind, from, result)
      await ops.multiply(result, await widened(c, x, row, rows, wide), result)
      await keep(c, result, y, row, rows)
    }
    return
  }
  const count = at.probes * at.rows
  const [factors, values] = [c.rows(x, 0, count), c.rows(y, 0, count)]
  for (let i = 0; i < values.length; i += chunk.length) {
    const part = values.subarray(i, i + chunk.length)
    const result = chunk.subarray(0, part.length)
    await ops.activation(kind, part, result)
    await ops.multiply(result, factors.subarray(i, i + part.length), part)
  }
}

async function activation(c: CpuContext, kind: Activation, x: Tensor, at: Rows): Promise<void> {
  if (x.dtype === 'F16') {
    const { wide, product } = c.scratch()
    for (const { row, rows } of runsOf(at, true, mostRows(x))) {
      const from = await widened(c, x, row, rows, wide)
      const result = product.subarray(0, from.length)
      await c.ops.activation(kind, from, result)
      await keep(c, result, x, row, rows)
    }
    return
  }
  const array = c.rows(x, 0, at.probes * at.rows)
  const { chunk } = c.scratch()
  for (let i = 0; i < array.length; i += chunk.length) {
    const part = array.subarray(i, i + chunk.length)
    const result = chunk.subarray(0, part.length)
    await c.ops.activation(kind, part, result)
    part.set(result)
  }
}
