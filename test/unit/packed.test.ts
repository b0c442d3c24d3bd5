// Who sees whom in a packed batch, against the definition row by row: a token sees the tokens of its own
// text, which is its segment behind all of its ancestors.
// Alone: npx vitest run test/unit/packed.test.ts

import { describe, expect, it } from 'vitest'
import {
  onlyQueries,
  queryGroups,
  rowsOf,
  type QueryGroups,
  type Segment,
  type Sight,
} from '../../src/device/packed.ts'
import { randomOf } from '../helpers/random.ts'

/** A tree of four generations and two texts beside it. */
const SEGMENTS: readonly Segment[] = [
  { row0: 0, rows: 3 },
  { row0: 3, rows: 1 },
  { row0: 4, rows: 2, parent: 0 },
  { row0: 6, rows: 4, parent: 0 },
  { row0: 10, rows: 1, parent: 3 },
  { row0: 11, rows: 2, parent: 4 },
  { row0: 13, rows: 5 },
]

/** The rows of the text up to and with a segment. */
const textOf = (segments: readonly Segment[], index: number): number[] => {
  const { row0, rows, parent } = segments[index]!
  const before = parent === undefined ? [] : textOf(segments, parent)
  return [...before, ...Array.from({ length: rows }, (_, i) => row0 + i)]
}

/** By definition: the rows of k that row `row` sees, in order. */
function seenBy(
  segments: readonly Segment[],
  row: number,
  { causal, window = Infinity }: Sight,
  offset = 0,
): number[] {
  const index = segments.findIndex(({ row0, rows }) => row >= row0 && row < row0 + rows)
  const prefix = Array.from({ length: offset }, (_, i) => i)
  const text = [...prefix, ...textOf(segments, index).map((r) => offset + r)]
  const end = causal ? text.indexOf(offset + row) + 1 : text.length
  return text.slice(Math.max(0, end - window), end)
}

/** What the groups say of each query, in order of the queries. */
function told({ groups }: QueryGroups): number[][] {
  const all: number[][] = []
  for (const { query0, queries, keys, from, to } of groups) {
    expect([query0, from.length, to.length]).toEqual([all.length, queries, queries])
    for (let i = 0; i < queries; i++) all.push([...keys.subarray(from[i], to[i])])
  }
  return all
}

describe('packed rows', () => {
  it('chain a segment to its ancestors, in the order of the text', () => {
    expect([...rowsOf(SEGMENTS, 0)]).toEqual([0, 1, 2])
    expect([...rowsOf(SEGMENTS, 2)]).toEqual([0, 1, 2, 4, 5])
    expect([...rowsOf(SEGMENTS, 5)]).toEqual([0, 1, 2, 6, 7, 8, 9, 10, 11, 12])
    expect([...rowsOf(SEGMENTS, 6)]).toEqual([13, 14, 15, 16, 17])
  })

  it.each<[string, Sight, number, number[]]>([
    ['causally', { causal: true }, 0, [0, 1, 2, 6, 7, 8, 9, 10, 11]],
    ['in a window', { causal: true, window: 4 }, 0, [8, 9, 10, 11]],
    ['wholly', { causal: false }, 0, [0, 1, 2, 6, 7, 8, 9, 10, 11, 12]],
    ['behind a prefix', { causal: true }, 2, [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13]],
    [
      'in a window that ends in the prefix',
      { causal: true, window: 10 },
      2,
      [1, 2, 3, 4, 8, 9, 10, 11, 12, 13],
    ],
  ])('see each other %s', (_, sight, offset, ofRow11) => {
    const sees = queryGroups(SEGMENTS, sight, offset)
    const all = told(sees)
    expect(all).toHaveLength(18)
    expect(all[11]).toEqual(ofRow11)
    all.forEach((keys, row) => expect(keys).toEqual(seenBy(SEGMENTS, row, sight, offset)))
    expect([sees.queries, sees.keys]).toEqual([18, 18 + offset])
    expect(sees.groups).toHaveLength(SEGMENTS.length)
  })

  it('are asked for some rows alone: groups of segments that ask', () => {
    const queries = Uint32Array.of(2, 3, 7, 9, 12)
    const sees = onlyQueries(queryGroups(SEGMENTS, { causal: true, window: 5 }), queries)
    const want = [...queries].map((row) => seenBy(SEGMENTS, row, { causal: true, window: 5 }))
    expect(told(sees)).toEqual(want)
    expect(sees.groups.map(({ query0, queries: count }) => [query0, count])).toEqual([
      [0, 1],
      [1, 1],
      [2, 2],
      [4, 1],
    ])
    expect([sees.queries, sees.keys]).toEqual([5, 18])
  })

  it('give every query at least one key, whatever the tree', () => {
    for (let seed = 0; seed < 60; seed++) {
      const random = randomOf(seed)
      const segments: Segment[] = []
      let next = 0
      for (let count = random.whole(1, 9); count > 0; count--) {
        const rows = random.whole(1, 6)
        const parent = random.whole(1, 2 * segments.length + 1) - 1
        segments.push({ row0: next, rows, ...(parent < segments.length && { parent }) })
        next += rows
      }
      const sight = { causal: random.pick([true, false]), window: random.pick([1, 3, Infinity]) }
      const offset = random.pick([0, 4])
      const queries = Uint32Array.from({ length: next }, (_, i) => i).filter(() =>
        random.pick([true, false]),
      )
      const sees = onlyQueries(queryGroups(segments, sight, offset), queries)
      const want = [...queries].map((row) => seenBy(segments, row, sight, offset))
      expect(told(sees), `seed ${seed}`).toEqual(want)
      expect(want.every((keys) => keys.length > 0)).toBe(true)
    }
  })

  it('may be none', () => {
    expect(queryGroups([])).toEqual({
      groups: [],
      queries: 0,
      keys: 0,
    })
  })
})
