// What the cpu device itself needs beside tensors and slots, as a pure function of the workload; the
// device allocates by the same numbers. Imports no device, so the planner can take it alone.

import type { MemoryModel, Workload } from '../memory.ts'
import { attentionScratch } from './attention-plan.ts'

/** Tiles whose prepared versions exist at once: one burst of the noise workers. */
export const RING_TILES = 2
/** Element-wise operations and soft-max statistics go through in runs of this many elements. */
const CHUNK_ELEMENTS = 262_144
/** Logits of one run of the head, unless 64 rows have more. */
const HEAD_ELEMENTS = 2 ** 21
/** f32 elements that f16 rows are widened to at a time, unless LEAST_ROWS of them have more. */
const WIDENED_ELEMENTS = 2 ** 20
/** Products of fewer rows than there are would take other kernels and get other bits. */
export const LEAST_ROWS = 64

/** Rows of so many columns that are widened at a time. */
export const widenedRows = (cols: number) =>
  Math.max(LEAST_ROWS, Math.floor(WIDENED_ELEMENTS / cols))

/** The scratch of a workload in f32 elements, part by part. */
interface CpuScratch {
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
  /** Frames, mask and workspace of one call of attention. */
  readonly attention: number
  /** Results of element-wise runs. */
  readonly chunk: number
  /** Logits of one run of the head, of which there are two copies. */
  readonly logits: number
  /** Rows of f16 activations that are widened at a time. */
  readonly wide: number
}

/** Scratch of a workload, in f32 elements by use. */
export function cpuScratch(w: Workload): CpuScratch {
  const { probes, versions, projectionCols, addendElements } = w
  const addend = projectionCols > 0
  // Probes that share the weights go together, others one after the other.
  const product = (versions < probes ? probes : 1) * w.rows * w.tileRows
  const halves = w.halfCols > 0
  const wide = runElements(probes * w.rows, Math.max(w.halfCols, w.tileRows))
  const headRows = Math.max(2, probes * w.headRows)
  const logits = Math.min(headRows * w.tileRows, headElements(w.tileRows))
  return {
    ringBuffers: RING_TILES * versions,
    ringElements: w.tileElements,
    product: halves ? wide : product,
    projection: addend ? probes * w.rows * (projectionCols + probes) : 0,
    factors: addend ? (1 + probes) * addendElements + probes * w.tileRows : 0,
    blocks: addend ? (halves ? wide : product) : 0,
    attention: attentionScratch(probes, w.rows, w.attention),
    chunk: CHUNK_ELEMENTS,
    logits: halves ? Math.min(logits, Math.max(wide, 2 * w.tileRows)) : logits,
    wide: halves ? wide : 0,
  }
}

/** At most what is widened at a time of `rows` rows of `cols` columns or fewer. */
const runElements = (rows: number, cols: number) =>
  Math.min(rows * cols, Math.max(WIDENED_ELEMENTS, LEAST_ROWS * cols))

/** Logits of one run of the head at most. */
export const headElements = (tileRows: number) => Math.max(HEAD_ELEMENTS, LEAST_ROWS * tileRows)

/** More would gain nothing, and lengthen the wait for the first. */
const MAX_SLAB_BYTES = 2 ** 30

export const cpuMemory: MemoryModel = {
  maxSlabBytes: MAX_SLAB_BYTES,
  maxAllocationBytes: Infinity,
  slotBytes: (bytes) => bytes,
  /** Files are read straight into the slots. */
  stagingBytes: () => 0,
  scratch(workload) {
    const { ringBuffers, ringElements, ...parts } = cpuScratch(workload)
    const elements = { ring: ringBuffers * ringElements, ...parts, room: parts.logits }
    return Object.entries(elements).map(([label, count]) => ({ label, bytes: 4 * count }))
  },
}
