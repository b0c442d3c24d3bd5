// A batch as devices see it: the real tokens of its texts, each once, in segments that may share their
// beginnings (flash-attention's variable-length form, with parents). And which rows attention lets a
// query see, as lists that devices need not interpret. How texts become segments is src/data/packing.ts's matter.

/** Rows [row0, row0 + rows): a piece of text. It goes on from the last row of `parent`, or begins a text. */
export interface Segment {
  readonly row0: number
  readonly rows: number
  /** Index of an earlier segment. */
  readonly parent?: number
}

/** R rows of tokens. */
export interface Packed {
  /** [R] */
  readonly ids: Uint32Array
  /** [R] place in its text, from 0. */
  readonly positions: Uint32Array
  /** All rows in order. */
  readonly segments: readonly Segment[]
}

/** Heads of attention. */
export interface AttentionDims {
  readonly heads: number
  /** Heads of keys and values: query head h sees head floor(h * kvHeads / heads). Divides `heads`. */
  readonly kvHeads: number
  /** D, of all heads. */
  readonly headSize: number
  /** What scores are multiplied with; usually D^-0.5. */
  readonly scale: number
  /** Scores then become cap * tanh(score / cap) (Gemma 2); absent: they stay. */
  readonly cap?: number
}

/** Consecutive query rows that see keys of one list. */
export interface QueryGroup {
  /** First row of q and y, and how many. */
  readonly query0: number
  readonly queries: number
  /** Rows of k and v in the order of their text. */
  readonly keys: Uint32Array
  /** [queries]: query i sees keys[from[i]] to keys[to[i] - 1], at least one. */
  readonly from: Uint32Array
  readonly to: Uint32Array
}

/** What each query of one probe sees; the same for every probe. */
export interface QueryGroups {
  readonly groups: readonly QueryGroup[]
  /** Rows of q and y of a probe: all are in one group each, in order. */
  readonly queries: number
  /** Rows of k and v of a probe. */
  readonly keys: number
}

/** 0, 1, ... count - 1: the first rows, each at its place. */
export const upTo = (count: number) => Uint32Array.from({ length: count }, (_, i) => i)

/** Limits of what a query sees of its text. */
export interface Sight {
  /** Whether nothing behind itself. */
  readonly causal: boolean
  /** Only so many of the last keys, itself among them; absent: all. */
  readonly window?: number
}

export const CAUSAL: Sight = { causal: true }

/** Rows of the segment's ancestors and its own, in the order of the text; none for no segment. */
export function rowsOf(segments: readonly Segment[], index: number | undefined): Uint32Array {
  const chain: Segment[] = []
  for (let at = index; at !== undefined; at = segments[at]!.parent) chain.unshift(segments[at]!)
  const rows = new Uint32Array(chain.reduce((sum, segment) => sum + segment.rows, 0))
  let next = 0
  for (const { row0, rows: count } of chain) {
    for (let i = 0; i < count; i++) rows[next++] = row0 + i
  }
  return rows
}

/**
 * What the rows of a batch see of each other. Keys and values of row r are in row r + `offset`, behind
 * `offset` rows that every text begins with (a prefix).
 */
export function queryGroups(
  segments: readonly Segment[],
  { causal, window }: Sight = CAUSAL,
  offset = 0,
): QueryGroups {
  const last = segments.at(-1)
  const rows = last ? last.row0 + last.rows : 0
  const groups = segments.map((segment, index): QueryGroup => {
    const own = rowsOf(segments, index)
    const keys = new Uint32Array(offset + own.length)
    for (let i = 0; i < keys.length; i++) keys[i] = i < offset ? i : offset + own[i - offset]!
    const before = keys.length - segment.rows
    const to = new Uint32Array(segment.rows)
    for (let i = 0; i < to.length; i++) to[i] = causal ? before + i + 1 : keys.length
    const from = new Uint32Array(segment.rows)
    return { query0: segment.row0, queries: segment.rows, keys, from, to }
  })
  return lastKeys({ groups, queries: rows, keys: offset + rows }, window)
}

/** The same where each query sees only the last `window` of its keys; all of them if it is undefined. */
export function lastKeys(sees: QueryGroups, window: number | undefined): QueryGroups {
  const isLong = ({ from, to }: QueryGroup) => to.some((end, i) => end - from[i]! > window!)
  if (window === undefined || !sees.groups.some(isLong)) return sees
  const groups = sees.groups.map((group) => ({
    ...group,
    from: group.from.map((first, i) => Math.max(first, group.to[i]! - window)),
  }))
  return { ...sees, groups }
}

/** The same for the queries in the rising list `asking` alone, which become rows 0, 1, ... of q. */
export function onlyQueries({ groups, keys }: QueryGroups, asking: Uint32Array): QueryGroups {
  const some: QueryGroup[] = []
  let first = 0
  for (const group of groups) {
    let end = first
    while (end < asking.length && asking[end]! < group.query0 + group.queries) end++
    if (end === first) continue
    const places = asking.subarray(first, end).map((row) => row - group.query0)
    some.push({
      query0: first,
      queries: end - first,
      keys: group.keys,
      from: places.map((i) => group.from[i]!),
      to: places.map((i) => group.to[i]!),
    })
    first = end
  }
  return { groups: some, queries: asking.length, keys }
}
