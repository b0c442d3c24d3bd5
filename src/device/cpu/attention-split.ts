// How attention is cut on the cpu device, so that its memory stays small, and what that comes to: f32 rows in
// place by sequences or query rows, f16 rows by heads too, since they are widened. Pure; what is done
// with it is attention.ts's matter and memory.ts's.

/** Bound on what one attention call holds, not counting the keys and values of a long sequence. */
const ATTENTION_ELEMENTS = 2 ** 22
/** Fewer query rows per call would spend more on rearranging keys than on scores. */
const MIN_QUERIES = 32

/**
 * Bounds for f16 rows, which are cut by heads too: what a call holds, and what its
 * keys and values, and its queries and results, are widened to; as far as one head allows.
 */
const HALF_ATTENTION_ELEMENTS = 3 * 2 ** 20
const HALF_KEY_ELEMENTS = 2 ** 20
const HALF_QUERY_ELEMENTS = 2 ** 18

export interface AttentionShape {
  /** Sequences in all: probes times batch. */
  readonly sequences: number
  readonly tokens: number
  /** Keys of a sequence, at least tokens. */
  readonly keys: number
  readonly heads: number
  readonly headSize: number
}

/** How attention is cut: whole sequences several at a time, or query blocks of one sequence. */
interface AttentionCut {
  readonly sequences: number
  readonly queries: number
}

/** f32 elements for each query row: mask, scores of each head, rearranged copies of q and result. */
const queryElements = (shape: AttentionShape) =>
  (shape.heads + 1) * shape.keys + 2 * shape.heads * shape.headSize

/** f32 elements one attention call holds: those of its query rows, and copies of k and v. */
export function attentionElements(shape: AttentionShape, cut: AttentionCut): number {
  const keys = 2 * shape.keys * shape.heads * shape.headSize
  return cut.sequences * (cut.queries * queryElements(shape) + keys)
}

/** Depends on the shape alone, so that a run's bits do not depend on memory or threads. */
export function cutAttention(shape: AttentionShape): AttentionCut {
  const { tokens } = shape
  const whole = attentionElements(shape, { sequences: 1, queries: tokens })
  if (whole <= ATTENTION_ELEMENTS) {
    const sequences = Math.min(shape.sequences, Math.floor(ATTENTION_ELEMENTS / whole))
    return { sequences, queries: tokens }
  }
  const queries = Math.floor(ATTENTION_ELEMENTS / queryElements(shape))
  return { sequences: 1, queries: Math.min(tokens, Math.max(MIN_QUERIES, queries)) }
}

/**
 * What to set aside so that every shape with at most these sequences, tokens and keys fits: an upper
 * bound, as cutting to whole rows leaves a remainder that a smaller shape may use.
 */
export function attentionScratch(shape: AttentionShape): number {
  const { sequences, tokens, keys, heads, headSize } = shape
  const perCall = Math.max(ATTENTION_ELEMENTS, MIN_QUERIES * queryElements(shape))
  return Math.min(
    attentionElements(shape, { sequences, queries: tokens }),
    perCall + 2 * keys * heads * headSize,
  )
}

/** How attention of f16 rows is cut: `heads` of them at a time. */
interface HalfCut extends AttentionCut {
  readonly heads: number
}

/** f32 elements of keys, values, queries and results of one call, widened. */
export const widenedElements = ({ keys, headSize }: AttentionShape, cut: HalfCut) =>
  2 * cut.sequences * (keys + cut.queries) * cut.heads * headSize

/** Depends on the shape alone, as cutAttention. */
export function cutHalves(shape: AttentionShape): HalfCut {
  const { tokens, keys, heads, headSize } = shape
  const one = { sequences: 1, queries: tokens, heads }
  const most = Math.min(
    HALF_ATTENTION_ELEMENTS / attentionElements(shape, one),
    (HALF_KEY_ELEMENTS + HALF_QUERY_ELEMENTS) / widenedElements(shape, one),
  )
  if (most >= 1) return { ...one, sequences: Math.min(shape.sequences, Math.floor(most)) }
  const part = { ...shape, heads: headsAtOnce(shape) }
  const width = part.heads * headSize
  const queries = Math.min(
    (HALF_ATTENTION_ELEMENTS - 2 * keys * width) / queryElements(part),
    HALF_QUERY_ELEMENTS / (2 * width),
  )
  const rows = Math.min(tokens, Math.max(MIN_QUERIES, Math.floor(queries)))
  return { sequences: 1, queries: rows, heads: part.heads }
}

/** Heads whose keys and values of one sequence are HALF_KEY_ELEMENTS at most. */
const headsAtOnce = ({ keys, heads, headSize }: AttentionShape) =>
  Math.min(heads, Math.max(1, Math.floor(HALF_KEY_ELEMENTS / (2 * keys * headSize))))

/** What to set aside for attention of f16 rows of all shapes up to this one, as attentionScratch. */
export function halfAttentionScratch(shape: AttentionShape) {
  const { sequences, tokens, keys, heads, headSize } = shape
  const all = { sequences, queries: tokens, heads }
  // With fewer keys more heads go together, which together have no more keys and values.
  const width = heads * headSize
  const scores = Math.min((heads + 1) * keys, HALF_KEY_ELEMENTS / (2 * headSize) + 2 * keys)
  const forced = MIN_QUERIES * (scores + 2 * width)
  const both = Math.max(HALF_KEY_ELEMENTS, 2 * keys * headSize)
  const attention = Math.max(HALF_ATTENTION_ELEMENTS, both + forced)
  return {
    attention: Math.min(attentionElements(shape, all), attention),
    widened: Math.min(
      widenedElements(shape, all),
      both + Math.max(HALF_QUERY_ELEMENTS, 2 * MIN_QUERIES * width),
    ),
  }
}
