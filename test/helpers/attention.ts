// Batches of every form as attention sees them, for the tests of devices and of kernels.

import {
  onlyQueries,
  queryGroups,
  type QueryGroups,
  type Segment,
} from '../../src/device/packed.ts'

/** Texts of such lengths, each of its own. */
export function textsOf(lengths: readonly number[]): Segment[] {
  let next = 0
  return lengths.map((rows) => {
    const row0 = next
    next += rows
    return { row0, rows }
  })
}

const RAGGED = textsOf([1, 9, 33, 2, 45])

/** A beginning of 20 rows that three texts share, one of them split again; and a text of its own. */
export const SHARED: readonly Segment[] = [
  { row0: 0, rows: 20 },
  { row0: 20, rows: 5, parent: 0 },
  { row0: 25, rows: 1, parent: 0 },
  { row0: 26, rows: 18, parent: 0 },
  { row0: 44, rows: 7 },
  { row0: 51, rows: 3, parent: 3 },
]

const lastOf = (segments: readonly Segment[]) =>
  Uint32Array.from(segments, ({ row0, rows }) => row0 + rows - 1)

/** The last token of each text after a cache whose rows lie among each other: token j of text t in row j*texts + t. */
function cached(lengths: readonly number[]): QueryGroups {
  const texts = lengths.length
  const groups = lengths.map((length, t) => ({
    query0: t,
    queries: 1,
    keys: Uint32Array.from({ length }, (_, j) => j * texts + t),
    from: Uint32Array.of(0),
    to: Uint32Array.of(length),
  }))
  return { groups, queries: texts, keys: Math.max(...lengths) * texts }
}

const causal = { causal: true }

export const SEEN: readonly (readonly [name: string, sees: QueryGroups])[] = [
  ['one token', queryGroups(textsOf([1]), causal)],
  ['texts of all lengths', queryGroups(RAGGED, causal)],
  ['texts that share beginnings', queryGroups(SHARED, causal)],
  ['a window', queryGroups(RAGGED, { causal: true, window: 11 })],
  ['a window of one', queryGroups(SHARED, { causal: true, window: 1 })],
  ['an encoder', queryGroups(RAGGED, { causal: false })],
  ['a prefix', queryGroups(SHARED, causal, 3)],
  ['some queries', onlyQueries(queryGroups(SHARED, causal), Uint32Array.of(3, 19, 21, 30, 43, 53))],
  ['a cache', cached([41, 7, 24])],
  ['no query', onlyQueries(queryGroups(SHARED, causal), new Uint32Array(0))],
]

/** Texts of 700 tokens: all of them, and the last token of each alone. */
const LONG = textsOf([700, 700])
export const SEEN_LONG: readonly (readonly [name: string, sees: QueryGroups])[] = [
  ['long texts', queryGroups(LONG, causal)],
  ['one token each after a long cache', onlyQueries(queryGroups(LONG, causal), lastOf(LONG))],
]
