// What the cpu device itself needs beside tensors and slots, as a pure function of the workload; the
// device allocates by the same numbers. Imports no device, so the planner can take it alone.

import type { MemoryModel, Workload } from '../device.ts'

/** Tiles whose prepared versions exist at once: one burst of the noise workers. */
export const RING_TILES = 2
/** Element-wise operations and soft-max statistics go through in runs of this many elements. */
const CHUNK_ELEMENTS = 262_144
/** Products of several probes' own weights at the same time. */
export const MOST_LANES = 2
/** Logits of the runs of the head that go side by side, unless 64 rows of each have more. */
const HEAD_ELEMENTS = 2 ** 21
/** Bound on what one attention call allocates, not counting the keys and values of a long sequence. */
const ATTENTION_ELEMENTS = 2 ** 22
/** Fewer query rows per call would spend more on rearranging keys than on scores. */
const MIN_QUERIES = 32

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
export interface AttentionCut {
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
function attentionScratch(shape: AttentionShape) {
  const { sequences, tokens, keys, heads, headSize } = shape
  const perCall = Math.max(ATTENTION_ELEMENTS, MIN_QUERIES * queryElements(shape))
  return {
    attention: Math.min(
      attentionElements(shape, { sequences, queries: tokens }),
      perCall + 2 * keys * heads * headSize,
    ),
    mask: Math.min(sequences * tokens * keys, Math.floor(perCall / (heads + 1))),
  }
}

/** The scratch of a workload in f32 elements, part by part. */
export interface CpuScratch {
  /** Buffers of prepared weights in circulation, each one version of one tile. */
  readonly ringBuffers: number
  readonly ringElements: number
  /** Product of the rows that go together with one tile. */
  readonly product: number
  /** Rows taken through an addend's right factor, with a column more for each probe. */
  readonly projection: number
  /** An addend's right factor, then a tile's part of its left one with the biases. */
  readonly factors: number
  /** Whole blocks of a Kronecker product that a tile has a part of, for the rows of `product`. */
  readonly blocks: number
  /** The mask, and what the attention kernel allocates while it runs. */
  readonly attention: number
  /** The mask alone, a part of `attention`: it is one of heads + 1 score matrices. */
  readonly mask: number
  /** Results of element-wise runs. */
  readonly chunk: number
  /** Logits of one run of the head, of which there are two copies. */
  readonly logits: number
}

export function cpuScratch(w: Workload): CpuScratch {
  const { probes, versions, projectionCols, addendElements } = w
  const addend = projectionCols > 0
  // Probes that share the weights go together, others side by side.
  const product = (versions < probes ? probes : Math.min(probes, MOST_LANES)) * w.rows * w.tileRows
  const logits = Math.min(probes * w.headRows * w.tileRows, headElements(w.tileRows))
  return {
    ringBuffers: RING_TILES * versions,
    ringElements: w.tileElements,
    product,
    projection: addend ? probes * w.rows * (projectionCols + probes) : 0,
    factors: addend ? (1 + probes) * addendElements + probes * w.tileRows : 0,
    blocks: addend ? product : 0,
    ...attentionScratch({ ...w, sequences: probes * w.batch }),
    chunk: CHUNK_ELEMENTS,
    logits,
  }
}

/** Logits of one run of the head at most. */
export const headElements = (tileRows: number) =>
  Math.max(HEAD_ELEMENTS, MOST_LANES * 64 * tileRows)

export const cpuMemory: MemoryModel = {
  kind: 'cpu',
  slotBytes: (bytes) => bytes,
  /** Files are read straight into the slots. */
  stagingBytes: () => 0,
  scratchBytes(workload) {
    const s = cpuScratch(workload)
    const ring = s.ringBuffers * s.ringElements
    const addends = s.projection + s.factors + s.blocks
    return 4 * (ring + s.product + addends + s.attention + s.chunk + 2 * s.logits)
  },
}
