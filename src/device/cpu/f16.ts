// f16 activations on the cpu device, whose kernels are f32: rows are widened into scratch, run by run, and
// results rounded from it. How many rows go at a time depends on their columns alone (memory.ts), so
// that a run's bits depend on nothing else. f32 tensors pass through here in place, at no cost.

import { LARGEST_HALF } from '../f16.ts'
import type { Tensor } from '../device.ts'
import { widenedRows } from './memory.ts'
import { constant, type OnnxGraph } from './onnx.ts'
import { ints, type Sessions } from './sessions.ts'
import { maxOf } from '../../util/extremes.ts'

export interface HalfOps {
  /** y [rows, cols] f32 = columns [col0, col0 + cols) of x [rows, all] f16. */
  widen(x: Uint16Array, all: number, col0: number, y: Float32Array, cols: number): Promise<void>
  /** y f16 = x f32, none of it infinite; x is cut to the range of f16 too. */
  narrow(x: Float32Array, y: Uint16Array): Promise<void>
  /** Columns from col0 on of y [rows, all] = x [rows, cols]; `room` takes as many f16 as x has. */
  narrowColumns(
    x: Float32Array,
    y: Uint16Array,
    all: number,
    col0: number,
    room: Float32Array,
  ): Promise<void>
}

/** Who has the memory of tensors and converts it. */
interface HalfContext {
  readonly ops: HalfOps
  /** Rows of a live f32 tensor in place. */
  rows(tensor: Tensor, row0: number, count: number): Float32Array
  /** Rows of a live f16 tensor in place. */
  halves(tensor: Tensor, row0: number, count: number): Uint16Array
}

/** Rows that go together: all of them where no tensor is f16. */
export function mostRows(...tensors: readonly Tensor[]): number {
  const halves = tensors.filter(({ dtype }) => dtype === 'F16')
  return halves.length === 0 ? Infinity : widenedRows(maxOf(halves.map(({ cols }) => cols)))
}

/** Where f32 results for `count` rows go: into an f32 tensor itself, for another to the front of `room`. */
export const placeFor = (
  c: HalfContext,
  tensor: Tensor,
  row: number,
  count: number,
  room: Float32Array,
) => (tensor.dtype === 'F32' ? c.rows(tensor, row, count) : frontOf(room, count * tensor.cols))

/** `count` rows as f32: those of an f32 tensor itself, of another widened to the front of `room`. */
export async function widened(
  c: HalfContext,
  tensor: Tensor,
  row: number,
  count: number,
  room: Float32Array,
): Promise<Float32Array> {
  const place = placeFor(c, tensor, row, count, room)
  if (tensor.dtype === 'F16') {
    await c.ops.widen(c.halves(tensor, row, count), tensor.cols, 0, place, tensor.cols)
  }
  return place
}

/** Stores what was calculated in the place for these rows; their f32 values are gone then. */
export async function keep(
  c: HalfContext,
  values: Float32Array,
  tensor: Tensor,
  row: number,
  count: number,
): Promise<void> {
  if (tensor.dtype === 'F16') await c.ops.narrow(values, c.halves(tensor, row, count))
}

export function frontOf(room: Float32Array, elements: number): Float32Array {
  if (elements > room.length) {
    throw new Error('cpu device: f16 rows are more than what reserve() was told')
  }
  return room.subarray(0, elements)
}

export function createHalfOps({ run }: Sessions, threads: number): HalfOps {
  const ops: HalfOps = {
    async widen(x, all, col0, y, cols) {
      if (cols === all) {
        const feeds = { x: { data: x, dims: [x.length] } }
        return run('widen', () => widenGraph, threads, feeds, { y: { data: y, dims: [y.length] } })
      }
      const rows = x.length / all
      const feeds = { x: { data: x, dims: [rows, all] }, from: ints(col0), to: ints(col0 + cols) }
      const into = { y: { data: y, dims: [rows, cols] } }
      await run('widen columns', () => widenColumnsGraph, threads, feeds, into)
    },
    async narrow(x, y) {
      const dims = [x.length]
      const into = { z: { data: x, dims }, y: { data: y, dims } }
      await run('narrow', () => narrowGraph, threads, { x: { data: x, dims } }, into)
    },
    async narrowColumns(x, y, all, col0, room) {
      if (x.length === y.length) return ops.narrow(x, y)
      const { buffer, byteOffset } = frontOf(room, Math.ceil(x.length / 2))
      const halves = new Uint16Array(buffer, byteOffset, x.length)
      await ops.narrow(x, halves)
      const rows = y.length / all
      const cols = x.length / rows
      for (let row = 0; row < rows; row++) {
        y.set(halves.subarray(row * cols, (row + 1) * cols), row * all + col0)
      }
    },
  }
  return ops
}

/** ONNX's numbers of the element types. */
const TO = { f32: { to: { int: 1 } }, f16: { to: { int: 10 } } }

const widenGraph: OnnxGraph = {
  nodes: [{ op: 'Cast', inputs: ['x'], outputs: ['y'], attributes: TO.f32 }],
  inputs: { x: 1 },
  halves: ['x'],
  outputs: { y: 1 },
}

const widenColumnsGraph: OnnxGraph = {
  nodes: [
    { op: 'Constant', inputs: [], outputs: ['axis'], attributes: { value_ints: { ints: [1] } } },
    { op: 'Slice', inputs: ['x', 'from', 'to', 'axis'], outputs: ['s'] },
    { op: 'Cast', inputs: ['s'], outputs: ['y'], attributes: TO.f32 },
  ],
  inputs: { x: 2 },
  integers: ['from', 'to'],
  halves: ['x'],
  outputs: { y: 2 },
}

/** Clip keeps a NaN; the library would make an infinity of what is too large. */
const narrowGraph: OnnxGraph = {
  nodes: [
    constant('least', -LARGEST_HALF),
    constant('most', LARGEST_HALF),
    { op: 'Clip', inputs: ['x', 'least', 'most'], outputs: ['z'] },
    { op: 'Cast', inputs: ['z'], outputs: ['y'], attributes: TO.f16 },
  ],
  inputs: { x: 1 },
  halves: ['y'],
  outputs: { z: 1, y: 1 },
}
