// Where activation buffers lie for so many rows: buffers of one memory side by side or over each other, as the
// model's program has them (models/places.ts). Pure; the planner counts by it, the working set allocates by it.

import { maxOf } from '../src/util/extremes.ts'
import { VIEW_BYTES } from '../src/util/units.ts'

/** An activation buffer as the planner sees it; models/model.ts has the same fields. */
export interface PlanBuffer {
  readonly label: string
  readonly cols: number
  readonly memory: number
  readonly col0: number
}

/** One allocation, and where in it each buffer of the list begins. */
export interface Arena {
  /** Of its widest buffer. */
  readonly label: string
  readonly elements: number
  readonly places: readonly { readonly buffer: number; readonly first: number }[]
}

/** The memory of all buffers for `rows` rows of each, of elements of 4 or 2 bytes; in whole words. */
export function arenas(
  buffers: readonly PlanBuffer[],
  rows: number,
  elementBytes: number,
): Arena[] {
  const whole = (elements: number, bytes: number) =>
    (Math.ceil((elements * elementBytes) / bytes) * bytes) / elementBytes
  const memories = [...new Set(buffers.map(({ memory }) => memory))]
  return memories.map((memory) => {
    const own = buffers
      .map((buffer, i) => ({ ...buffer, buffer: i }))
      .filter((buffer) => buffer.memory === memory)
      .sort((a, b) => a.col0 - b.col0)
    /** Behind all that end before it, each at a place that a device can bind. */
    const firsts = new Map<number, number>()
    for (const { buffer, col0 } of own) {
      const before = own.filter((other) => other.col0 + other.cols <= col0)
      const ends = before.map((b) => whole(firsts.get(b.buffer)! + rows * b.cols, VIEW_BYTES))
      firsts.set(buffer, maxOf(ends, 0))
    }
    const places = own.map(({ buffer }) => ({ buffer, first: firsts.get(buffer)! }))
    const ends = own.map(({ buffer, cols }) => firsts.get(buffer)! + whole(rows * cols, 4))
    const widest = own.reduce((a, b) => (b.cols > a.cols ? b : a))
    return { label: widest.label, elements: maxOf(ends), places }
  })
}
