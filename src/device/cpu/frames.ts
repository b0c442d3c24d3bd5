// Frames of the cpu device: rows of a tensor, in f32, as a call of attention wants them, each stretch padded
// by repeating its own rows. An f32 tensor that has them so is its own frame; others are copied, f16 ones
// by way of `room`, memory that the call needs later.

import type { Span } from './attention-plan.ts'
import { frontOf, type HalfOps } from './f16.ts'

export type Elements = Float32Array | Uint16Array

/** Columns [first, first + count) of rows of `all`. */
export interface Columns {
  readonly all: number
  readonly first: number
  readonly count: number
}

/** The first `count` rows of spans, `offset` rows further on. */
export interface Stretch {
  readonly spans: readonly Span[]
  readonly offset: number
  readonly count: number
}

export interface Frame {
  readonly stretches: readonly Stretch[]
  /** Rows that each stretch is padded to. */
  readonly each: number
  readonly columns: Columns
  /** Where the frame is rows of the tensor as they are: the first. */
  readonly inPlace?: number | undefined
}

const elementsOf = ({ stretches, each, columns }: Frame) => stretches.length * each * columns.count

/** f32 elements of memory that the frame takes. */
export const memoryOf = (tensor: Elements, frame: Frame) =>
  tensor instanceof Float32Array && frame.inPlace !== undefined ? 0 : elementsOf(frame)

/** The frame's rows, in `memory` unless they are used in place. */
export async function loadFrame(
  ops: HalfOps,
  tensor: Elements,
  frame: Frame,
  memory: Float32Array,
  room: Float32Array,
): Promise<Float32Array> {
  if (tensor instanceof Float32Array) {
    if (frame.inPlace !== undefined) return partOf(tensor, frame)
    gather(tensor, frame, memory)
    return memory
  }
  let halves = partOf(tensor, frame)
  if (frame.inPlace === undefined) gather(tensor, frame, (halves = halvesIn(room, memory.length)))
  await ops.widen(halves, halves.length, 0, memory, memory.length)
  return memory
}

/** Where results for the frame go: to the tensor itself where it is its own frame, else to `memory`. */
export const resultOf = (tensor: Elements, frame: Frame, memory: Float32Array) =>
  tensor instanceof Float32Array && frame.inPlace !== undefined ? partOf(tensor, frame) : memory

/** Puts such results into their rows of the tensor. They are gone then. */
export async function storeFrame(
  ops: HalfOps,
  result: Float32Array,
  tensor: Elements,
  frame: Frame,
  room: Float32Array,
): Promise<void> {
  const placed = frame.inPlace !== undefined
  if (tensor instanceof Float32Array) {
    if (!placed) scatter(result, frame, tensor)
    return
  }
  const halves = placed ? partOf(tensor, frame) : halvesIn(room, result.length)
  await ops.narrow(result, halves)
  if (!placed) scatter(halves, frame, tensor)
}

function partOf<E extends Elements>(tensor: E, frame: Frame): E {
  const first = (frame.inPlace ?? 0) * frame.columns.all
  return tensor.subarray(first, first + elementsOf(frame)) as E
}

function halvesIn(room: Float32Array, count: number): Uint16Array {
  const { buffer, byteOffset } = frontOf(room, Math.ceil(count / 2))
  return new Uint16Array(buffer, byteOffset, count)
}

function gather(tensor: Elements, frame: Frame, into: Elements): void {
  const { all, first, count } = frame.columns
  eachSpan(frame, (row, rows, at) => {
    if (count === all) return into.set(tensor.subarray(row * all, (row + rows) * all), at * all)
    for (let i = 0; i < rows; i++) {
      const from = (row + i) * all + first
      into.set(tensor.subarray(from, from + count), (at + i) * count)
    }
  })
  for (const [i, stretch] of frame.stretches.entries()) {
    repeat(into, i * frame.each * count, stretch.count * count, frame.each * count)
  }
}

function scatter(from: Elements, frame: Frame, tensor: Elements): void {
  const { all, first, count } = frame.columns
  eachSpan(frame, (row, rows, at) => {
    if (count === all) return tensor.set(from.subarray(at * all, (at + rows) * all), row * all)
    for (let i = 0; i < rows; i++) {
      tensor.set(from.subarray((at + i) * count, (at + i + 1) * count), (row + i) * all + first)
    }
  })
}

/** Rows of the tensor from `row` on are those of the frame from `at` on. */
function eachSpan(frame: Frame, body: (row: number, rows: number, at: number) => void): void {
  for (const [i, { spans, offset, count }] of frame.stretches.entries()) {
    let done = 0
    for (const span of spans) {
      if (done === count) break
      const rows = Math.min(span.count, count - done)
      body(offset + span.row, rows, i * frame.each + done)
      done += rows
    }
  }
}

/** The first `have` elements from `start` on again and again, up to `need`. */
function repeat(into: Elements, start: number, have: number, need: number): void {
  for (let there = have; there < need; there *= 2) {
    into.copyWithin(start + there, start, start + Math.min(there, need - there))
  }
}
