// Which keys each query sees, as the one table of u32 that the kernels of attention read: blocks of queries
// that a workgroup takes (first query, how many, where the keys' list begins, the first key that any of
// them sees, the end of those), then the first and the end of each query's keys, then the lists.

import { maxOf, minOf } from '../../util/extremes.ts'
import type { QueryGroup, QueryGroups } from '../packed.ts'
import { BLOCK_WORDS } from './kernels/attention.ts'

/** Fewest queries that a workgroup takes on any adapter (attention-subgroup.ts, subgroups of four). */
const FEWEST_ROWS = 8

interface Sizes {
  readonly groups: number
  readonly queries: number
  /** Keys listed by all groups. */
  readonly listed: number
}

/** Words of the largest table for such sizes. */
export const tableWords = ({ groups, queries, listed }: Sizes) =>
  (Math.floor(queries / FEWEST_ROWS) + groups) * BLOCK_WORDS + 2 * queries + listed

export function sizesOf({ groups, queries }: QueryGroups): Sizes {
  const listed = groups.reduce((sum, { keys }) => sum + keys.length, 0)
  return { groups: groups.length, queries, listed }
}

/** The table for blocks of up to `rows` queries, and how many there are. */
export function attentionTable(sees: QueryGroups, rows: number) {
  const { queries, listed } = sizesOf(sees)
  const blocks = sees.groups.reduce((sum, group) => sum + Math.ceil(group.queries / rows), 0)
  const table = new Uint32Array(blocks * BLOCK_WORDS + 2 * queries + listed)
  const spans0 = blocks * BLOCK_WORDS
  let list = spans0 + 2 * queries
  let block = 0
  for (const group of sees.groups) {
    const { query0, keys, from, to } = group
    for (let first = 0; first < group.queries; first += rows) {
      table.set(blockOf(group, first, Math.min(rows, group.queries - first), list), block)
      block += BLOCK_WORDS
    }
    for (let i = 0; i < group.queries; i++) {
      table.set([from[i]!, to[i]!], spans0 + 2 * (query0 + i))
    }
    table.set(keys, list)
    list += keys.length
  }
  return { table, blocks }
}

function blockOf({ query0, from, to }: QueryGroup, first: number, count: number, list: number) {
  const begin = minOf(from.subarray(first, first + count))
  const end = maxOf(to.subarray(first, first + count))
  return [query0 + first, count, list, begin, end]
}
