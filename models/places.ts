// Where the rows of a program lie: rows that are never in use at the same time share memory. Pure. No operation
// may read one part of a memory and write another (WebGPU's rule, see Device.view).

import type { Buffer } from './model.ts'

/** Rows by number, in the order in which they are first written. */
interface Draft {
  readonly label: string
  readonly cols: number
}

/** Of one operation, by number; what it changes in place is written only. */
export interface Use {
  readonly reads: readonly number[]
  readonly writes: readonly number[]
}

interface Place {
  readonly memory: number
  readonly col0: number
  readonly end: number
  /** Operations between which it is in use. */
  readonly first: number
  readonly last: number
}

/**
 * Every row set in turn goes where memory has to grow the least. Of equals, beside rows that are not in use for
 * longer than itself: others would stand in the way of larger ones to come.
 * @returns the distinct buffers, and for each row set the number of its buffer
 */
export function placeRows(
  drafts: readonly Draft[],
  uses: readonly Use[],
): { buffers: Buffer[]; bufferOf: number[] } {
  const spans = spansOf(drafts.length, uses)
  const places: (Place | undefined)[] = drafts.map(() => undefined)
  const sizes: number[] = []
  let active: Place[] = []
  for (const [i, { cols }] of drafts.entries()) {
    const { first, last } = spans[i]!
    const barred = barredFor(i, uses.slice(first, last + 1), places)
    active = active.filter((place) => place.last >= first)
    const beside = active.filter((place) => place.first <= last)
    let best = { memory: sizes.length, col0: 0, growth: cols }
    for (const [memory, size] of sizes.entries()) {
      if (barred.has(memory)) continue
      const inside = beside.filter((p) => p.memory === memory)
      const col0 = freeAt(inside, cols)
      const growth = Math.max(0, col0 + cols - size)
      const fits = best.memory === sizes.length && inside.every((p) => p.last <= last)
      if (growth < best.growth || (growth === best.growth && fits)) best = { memory, col0, growth }
    }
    const { memory, col0 } = best
    sizes[memory] = Math.max(sizes[memory] ?? 0, col0 + cols)
    const place = { memory, col0, end: col0 + cols, first, last }
    places[i] = place
    active.push(place)
  }
  return distinct(drafts, places as Place[])
}

/** Between which operations each row set is in use. */
function spansOf(count: number, uses: readonly Use[]) {
  const spans = Array.from({ length: count }, () => ({ first: Infinity, last: -1 }))
  uses.forEach(({ reads, writes }, at) => {
    for (const i of [...reads, ...writes]) {
      spans[i]!.first = Math.min(spans[i]!.first, at)
      spans[i]!.last = at
    }
  })
  return spans
}

/** Memories in which row set i may not lie: those of what is written where it is read, or read where it is written. */
function barredFor(i: number, uses: readonly Use[], places: readonly (Place | undefined)[]) {
  const others = uses.flatMap(({ reads, writes }) => {
    const read = reads.includes(i) ? writes : []
    return writes.includes(i) ? [...read, ...reads, ...writes] : read
  })
  return new Set(others.flatMap((other) => (other === i ? [] : (places[other]?.memory ?? []))))
}

/** The first column from which on `cols` are free beside what is in use. */
function freeAt(beside: readonly Place[], cols: number): number {
  const sorted = beside.toSorted((a, b) => a.col0 - b.col0)
  let col0 = 0
  for (const place of sorted) {
    if (place.col0 - col0 >= cols) break
    col0 = Math.max(col0, place.end)
  }
  return col0
}

function distinct(drafts: readonly Draft[], places: readonly Place[]) {
  const buffers: Buffer[] = []
  const known = new Map<string, number>()
  const bufferOf = drafts.map(({ label, cols }, i) => {
    const { memory, col0 } = places[i]!
    const key = `${memory} ${col0} ${cols}`
    const found = known.get(key)
    if (found !== undefined) return found
    known.set(key, buffers.length)
    return buffers.push({ label, cols, memory, col0 }) - 1
  })
  return { buffers, bufferOf }
}
