// How attention is cut on the cpu device, and what memory that takes. Pure; what is done with it is
// attention.ts's matter and memory.ts's. Query rows of a group go in blocks; blocks of equal padded sizes
// form a class, of which many go through one call of the graph (attention-graph.ts). Groups too large for all heads at
// once go by heads. Keys are padded to whole vectors by some of weight 0: how the library sums then depends
// on no other row, so that the bits of a row are those of its query and of the keys it sees alone.

import { maxOf } from '../../util/extremes.ts'
import type { AttentionWork } from '../memory.ts'
import type { AttentionDims, QueryGroup, QueryGroups } from '../packed.ts'

/** f32 elements of one call, unless one head with LEAST_QUERIES or LEAST_SCORES has more. */
const CALL_ELEMENTS = 3 * 2 ** 20
/** Fewer query rows per call would spend more on rearranging keys than on scores. */
const LEAST_QUERIES = 32
/** Rows of scores that see one head of keys: with fewer a product could not be cut among threads. */
const LEAST_SCORES = 128
/** MLAS sums soft-max by vectors of so many keys at most, one after the other, and products key after key. */
const VECTOR = 16
/** With fewer keys, products would sum over the columns of long heads in longer blocks. */
const LONG_HEAD = 128
const LEAST_KEYS = 80
/** Blocks of more queries have a multiple of it, so that there are few classes. */
const MANY_QUERIES = 64

/** What the cut of a group depends on. */
type Heads = Pick<AttentionDims, 'heads' | 'kvHeads' | 'headSize'>

/** Consecutive rows. */
export interface Span {
  readonly row: number
  readonly count: number
}

/** Consecutive queries of a group, from its query `first` on, which see none but its first `seen` keys. */
export interface Block {
  readonly group: QueryGroup
  /** The group's keys. */
  readonly spans: readonly Span[]
  readonly first: number
  readonly queries: number
  readonly seen: number
}

/** Blocks that go together, padded to so many queries and keys, with all heads. */
export interface BlockClass {
  readonly queries: number
  readonly keys: number
  readonly blocks: readonly Block[]
}

/** A group whose keys, padded to `keys`, are taken for so many of their heads at a time; classes of one block each. */
export interface LongGroup {
  readonly group: QueryGroup
  readonly spans: readonly Span[]
  readonly kvHeads: number
  readonly keys: number
  readonly classes: readonly BlockClass[]
}

export interface AttentionPlan {
  readonly classes: readonly BlockClass[]
  readonly long: readonly LongGroup[]
  /** Whether all queries, and all keys, are the rows of the only class as they are, one block after the other. */
  readonly inPlace: { readonly queries: boolean; readonly keys: boolean }
}

/** Sizes of one call of the graph. */
export interface CallShape {
  readonly blocks: number
  /** Of each block. */
  readonly queries: number
  readonly keys: number
  readonly kvHeads: number
  /** Heads that share a head of keys and values. */
  readonly shared: number
  readonly headSize: number
}

/** Which rows are copied into frames. */
export interface Framed {
  readonly queries: boolean
  readonly keys: boolean
}

export const FRAMED: Framed = { queries: true, keys: true }

/** f32 elements of a call: mask, scores, rows head by head, and frames of rows (y takes q's). */
export function callElements(shape: CallShape, framed: Framed): number {
  const { blocks, queries, keys, kvHeads, shared, headSize } = shape
  const heads = kvHeads * shared
  const ofQueries = queries * headSize * heads * (framed.queries ? 2 : 1)
  const ofKeys = 2 * keys * headSize * kvHeads * (framed.keys ? 2 : 1)
  return blocks * (queries * keys * (1 + heads) + ofQueries + ofKeys)
}

/** How many blocks of a class go through a call. */
export function blocksAtOnce(shape: CallShape, framed: Framed): number {
  return Math.max(1, Math.floor(CALL_ELEMENTS / callElements({ ...shape, blocks: 1 }, framed)))
}

/** Depends on the rows that are seen and the heads alone, so that a run's bits do not depend on memory or threads. */
export function planAttention(sees: QueryGroups, heads: Heads): AttentionPlan {
  const { headSize } = heads
  const sizes = new Map<string, Block[]>()
  const long: LongGroup[] = []
  for (const group of sees.groups) {
    const spans = spansOf(group.keys)
    const keys = paddedKeys(group.keys.length, headSize)
    const { kvHeads, queries } = cut(group.queries, keys, heads)
    const blocks = blocksOf(group, spans, queries)
    if (kvHeads < heads.kvHeads) {
      const single = blocks.map((block) => classOf([block], headSize))
      long.push({ group, spans, kvHeads, keys, classes: single })
      continue
    }
    for (const block of blocks) {
      const size = `${paddedQueries(block.queries)} ${paddedKeys(block.seen, headSize)}`
      const alike = sizes.get(size)
      if (alike) alike.push(block)
      else sizes.set(size, [block])
    }
  }
  const classes = [...sizes.values()].map((blocks) => classOf(blocks, headSize))
  const only = long.length === 0 && classes.length === 1 ? classes[0] : undefined
  const inPlace = only ? placesOf(only, sees) : { queries: false, keys: false }
  return { classes, long, inPlace }
}

function classOf(blocks: readonly Block[], headSize: number): BlockClass {
  const queries = Math.max(2, maxOf(blocks.map((block) => block.queries)))
  return { queries, keys: paddedKeys(blocks[0]!.seen, headSize), blocks }
}

function placesOf(
  { queries, keys, blocks }: BlockClass,
  sees: QueryGroups,
): AttentionPlan['inPlace'] {
  const own = ({ spans, seen }: Block, i: number) =>
    seen === keys && spans[0]!.row === i * keys && spans[0]!.count >= keys
  return {
    queries: blocks.every((block) => block.queries === queries),
    keys: sees.keys === blocks.length * keys && blocks.every(own),
  }
}

/** Heads of keys, and queries, of which the elements of one call are as many as they may be. */
function cut(queries: number, keys: number, { heads, kvHeads, headSize }: Heads) {
  const shared = heads / kvHeads
  const shape = { blocks: 1, keys, shared, headSize }
  const whole = { ...shape, queries: paddedQueries(queries), kvHeads }
  if (callElements(whole, FRAMED) <= CALL_ELEMENTS) return { kvHeads, queries }
  const least = leastQueries(shared)
  const ofMask = least * keys
  const ofHead = callElements({ ...shape, queries: least, kvHeads: 1 }, FRAMED) - ofMask
  const ofKeys = 4 * keys * headSize
  const most = Math.min((CALL_ELEMENTS - ofMask) / ofHead, CALL_ELEMENTS / (2 * ofKeys))
  const together = Math.min(kvHeads, Math.max(1, Math.floor(most)))
  const room = CALL_ELEMENTS - together * ofKeys
  const each = keys + together * shared * (keys + 2 * headSize)
  return { kvHeads: together, queries: Math.max(least, evenQueries(Math.floor(room / each))) }
}

const leastQueries = (shared: number) => Math.max(LEAST_QUERIES, Math.ceil(LEAST_SCORES / shared))

const evenQueries = (rows: number) => (rows < MANY_QUERIES ? rows : rows - (rows % MANY_QUERIES))

function blocksOf(group: QueryGroup, spans: readonly Span[], most: number): Block[] {
  const blocks: Block[] = []
  for (let first = 0; first < group.queries; first += most) {
    const queries = Math.min(most, group.queries - first)
    const seen = maxOf(group.to.subarray(first, first + queries))
    blocks.push({ group, spans, first, queries, seen })
  }
  return blocks
}

function spansOf(rows: Uint32Array): Span[] {
  const spans: Span[] = []
  for (let i = 0, first = 0; i < rows.length; i++) {
    if (i + 1 < rows.length && rows[i + 1] === rows[i]! + 1) continue
    spans.push({ row: rows[first]!, count: i + 1 - first })
    first = i + 1
  }
  return spans
}

/** A single query would take another kernel; more than this number of sizes would make small classes. */
const paddedQueries = (queries: number) =>
  queries > MANY_QUERIES
    ? Math.ceil(queries / MANY_QUERIES) * MANY_QUERIES
    : Math.max(2, 2 ** Math.ceil(Math.log2(queries)))

function paddedKeys(keys: number, headSize: number): number {
  const least = headSize > LONG_HEAD ? LEAST_KEYS : 1
  return Math.ceil(Math.max(least, keys) / VECTOR) * VECTOR
}

/** What to set aside so that every batch with at most these rows, groups and keys fits: an upper bound. */
export function attentionScratch(probes: number, rows: number, work: AttentionWork): number {
  const { heads, kvHeads, headSize, groups, listed, longest } = work
  const [shared, keys] = [heads / kvHeads, paddedKeys(longest, headSize)]
  const one = { blocks: 1, queries: leastQueries(shared), keys, kvHeads: 1, shared, headSize }
  // Queries are padded to less than twice as many, or to two; keys of each group to the least or by less than a vector.
  const ofQueries = 2 * rows * (keys * (1 + heads) + 2 * heads * headSize)
  const ofKeys = 4 * kvHeads * headSize * (listed + groups * paddedKeys(1, headSize))
  return Math.min(probes * (ofQueries + ofKeys), Math.max(CALL_ELEMENTS, callElements(one, FRAMED)))
}
