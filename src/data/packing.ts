// From texts to rows: each real token once, texts that begin alike with one common beginning (a radix
// tree, whose edges become segments). A text has rows up to the one that its last label is predicted from:
// nobody asks what comes after that. Rectangles of a user's own loop are unpacked here too.

import { rowsOf, type Packed, type Segment } from '../device/packed.ts'
import { UserError } from '../util/errors.ts'
import { IGNORED, type Batch, type Choice, type Example, type Sequence } from './types.ts'

/** Texts as rows, and what is to be predicted from which. */
export interface PackedBatch {
  /** As they were given: a part of a batch is packed anew from some of them. */
  readonly texts: readonly Sequence[]
  readonly packed: Packed
  /** Of each text the rows of its tokens, as far as it has rows. */
  readonly textRows: readonly Uint32Array[]
  /** [L] the row that each label is predicted from, text by text, and the label. */
  readonly rows: Uint32Array
  readonly targets: Uint32Array
  /** Labels of each text; their sum is L. */
  readonly counts: readonly number[]
  /** Whose options the texts are, for objectives that compare them. */
  readonly choices?: readonly Choice[]
  /** The examples that were packed, for objectives that generate. */
  readonly examples?: readonly Example[]
  /** What a program gave, for objectives of its own. */
  readonly given?: Batch
  /** Texts of more tokens share nothing with others: their positions mean other angles. */
  readonly apart?: number
}

interface PackingOptions {
  /** Every token has a row, also where nothing is predicted from it. */
  readonly whole?: boolean
  readonly apart?: number | undefined
}

/** Beginnings of fewer tokens are not worth a segment of their own. */
const SHORTEST_SHARED = 8

export function packTexts(texts: readonly Sequence[], options: PackingOptions = {}): PackedBatch {
  const { whole = false, apart } = options
  const roots = [edge([], 0, 0), edge([], 0, 0)] as const
  const labels = texts.map(labelsOf)
  texts.forEach(({ inputIds }, i) => {
    const rows = whole ? inputIds.length : (labels[i]!.at(-1) ?? 0)
    const isLong = apart !== undefined && inputIds.length > apart
    insert(roots[isLong ? 1 : 0], inputIds, rows, i)
  })
  const { packed, segmentOf } = layOut(roots)
  const textRows = texts.map((_, i) => rowsOf(packed.segments, segmentOf.get(i)))
  const rows = labels.flatMap((places, i) => places.map((t) => textRows[i]![t - 1]!))
  const targets = labels.flatMap((places, i) => places.map((t) => texts[i]!.labels[t]!))
  return {
    texts,
    packed,
    textRows,
    rows: Uint32Array.from(rows),
    targets: Uint32Array.from(targets),
    counts: labels.map((places) => places.length),
    ...(apart !== undefined && { apart }),
  }
}

/** The batch with texts of more than `apart` tokens sharing nothing with others. */
export const packedApart = (batch: PackedBatch, apart: number | undefined): PackedBatch =>
  apart === batch.apart ? batch : { ...batch, ...packTexts(batch.texts, { apart }) }

/** [R] tokens of the texts that the rows belong to. */
export function lengthsOf({ packed, texts, textRows }: PackedBatch): Uint32Array {
  const lengths = new Uint32Array(packed.ids.length)
  textRows.forEach((rows, i) => {
    const { length } = texts[i]!.inputIds
    for (const row of rows) lengths[row] = Math.max(lengths[row]!, length)
  })
  return lengths
}

/** Examples as a batch; with `options` every option of each is a text, and the batch says whose. */
export function packExamples(examples: readonly Example[], { options = false } = {}): PackedBatch {
  if (!options) return { ...packTexts(examples), examples }
  return {
    ...packTexts(examples.flatMap((example) => example.options ?? [])),
    choices: choicesOf(examples),
    examples,
  }
}

/** Which texts are the options of which example, where all options follow one another. */
export function choicesOf(examples: readonly Example[]): Choice[] {
  let first = 0
  return examples.map(({ options: of = [], answer = 0, right = [answer] }) => {
    const choice = { first, count: of.length, right }
    first += of.length
    return choice
  })
}

/**
 * A rectangle's real tokens as texts. A label on a text's first token is none: there is nothing to predict
 * it from.
 */
export function packBatch(batch: Batch, options: PackingOptions = {}): PackedBatch {
  const { inputIds, attentionMask, labels, choices, examples } = batch
  const texts = inputIds.map((ids, b): Sequence => {
    const isReal = (_: number, t: number) => attentionMask[b]![t] === 1
    const next = labels[b]!.slice(ids.length)
    return {
      inputIds: ids.filter(isReal),
      labels: [...labels[b]!.slice(0, ids.length).filter(isReal), ...next],
    }
  })
  return {
    ...packTexts(texts, options),
    ...(choices && { choices }),
    ...(examples && { examples }),
    given: batch,
  }
}

/** @throws UserError if no token carries a label */
export function checkLabels(batch: PackedBatch): void {
  if (batch.rows.length > 0) return
  throw new UserError('a batch has no labelled token: every label is -100 (or stands first)')
}

/** Places of a text that carry a label; what stands first is predicted from nothing. */
function labelsOf({ labels }: Sequence): number[] {
  const places: number[] = []
  for (let t = 1; t < labels.length; t++) if (labels[t] !== IGNORED) places.push(t)
  return places
}

/** `count` texts of `tokens` tokens each, all that can be labelled: what a size stands for before there are texts. */
export const evenTexts = (count: number, tokens: number): Sequence[] =>
  Array.from({ length: count }, (_, i) => {
    const inputIds = new Array<number>(tokens).fill(i)
    return { inputIds, labels: [IGNORED, ...inputIds.slice(1)] }
  })

/** How many labels of a text are to be predicted. */
export const labelCount = (text: Sequence): number => labelsOf(text).length

/** Tokens ids[start] to ids[end - 1], after those of the edges above. */
interface Edge {
  readonly ids: readonly number[]
  start: number
  readonly end: number
  readonly next: Map<number, Edge>
  /** Texts that end here. */
  readonly ending: number[]
}

const edge = (ids: readonly number[], start: number, end: number): Edge => ({
  ids,
  start,
  end,
  next: new Map(),
  ending: [],
})

/** Puts the first `count` tokens of a text into the tree. */
function insert(root: Edge, ids: readonly number[], count: number, text: number): void {
  let at = 0
  let node = root
  while (at < count) {
    const below = node.next.get(ids[at]!)
    if (!below) {
      const leaf = edge(ids, at, count)
      node.next.set(ids[at]!, leaf)
      node = leaf
      break
    }
    const most = Math.min(below.end - below.start, count - at)
    let same = 1
    while (same < most && below.ids[below.start + same] === ids[at + same]) same++
    node = same < below.end - below.start ? split(node, below, same) : below
    at += same
  }
  node.ending.push(text)
}

/** Cuts `below` after `count` tokens; the upper part. */
function split(above: Edge, below: Edge, count: number): Edge {
  const upper = edge(below.ids, below.start, below.start + count)
  above.next.set(upper.ids[upper.start]!, upper)
  below.start += count
  upper.next.set(below.ids[below.start]!, below)
  return upper
}

/** The trees as segments, parents before children, and the segment that each text ends with. */
function layOut(roots: readonly Edge[]): { packed: Packed; segmentOf: Map<number, number> } {
  const ids: number[] = []
  const positions: number[] = []
  const segments: Segment[] = []
  const segmentOf = new Map<number, number>()

  const add = (tokens: readonly number[], depth: number, parent: number | undefined) => {
    const row0 = ids.length
    tokens.forEach((id, i) => {
      ids.push(id)
      positions.push(depth + i)
    })
    const segment = { row0, rows: tokens.length, ...(parent !== undefined && { parent }) }
    return segments.push(segment) - 1
  }
  /** `carried`: tokens above that are not shared, so that every branch has them itself. */
  const visit = (node: Edge, carried: readonly number[], depth: number, parent?: number) => {
    const own = [...carried, ...node.ids.slice(node.start, node.end)]
    const shared = node.next.size > 0 && own.length >= SHORTEST_SHARED
    const at = shared || node.ending.length > 0 ? add(own, depth, parent) : undefined
    for (const text of node.ending) segmentOf.set(text, at!)
    for (const below of node.next.values()) {
      if (shared) visit(below, [], depth + own.length, at)
      else visit(below, own, depth, parent)
    }
  }
  for (const { next } of roots) for (const below of next.values()) visit(below, [], 0)
  const packed = { ids: Uint32Array.from(ids), positions: Uint32Array.from(positions), segments }
  return { packed, segmentOf }
}
