// Causal attention with padding on the cpu device, cut so that the kernel's workspace stays small:
// several whole sequences at once, or blocks of query rows of one sequence, which then see only the
// keys up to their last row. How it is cut is said in memory.ts.

import { attentionElements, cutAttention, type AttentionShape } from './memory.ts'
import type { CpuOps } from './ops.ts'

/** Added to masked scores: their weight is exactly 0 where there is any other key, and finite. */
const MASKED = -1e30

export interface AttentionArrays {
  readonly q: Float32Array
  readonly k: Float32Array
  readonly v: Float32Array
  /** [B, T], 1 for tokens and 0 for padding. */
  readonly keyMask: Float32Array
  readonly y: Float32Array
}

/**
 * y = attention of shape.sequences sequences; sequence s takes row s % B of keyMask. `scratch` is
 * what memory.ts sets aside: `mask` is filled here, `attention` counts the kernel's workspace too.
 */
export async function attend(
  ops: CpuOps,
  arrays: AttentionArrays,
  shape: AttentionShape,
  scratch: { mask: Float32Array; attention: number },
): Promise<void> {
  const { tokens, heads } = shape
  const cols = heads * shape.headSize
  const cut = cutAttention(shape)
  if (attentionElements(shape, cut) > scratch.attention) {
    throw new Error('cpu device: attention is larger than what reserve() was told')
  }
  for (let s = 0; s < shape.sequences; s += cut.sequences) {
    const sequences = Math.min(cut.sequences, shape.sequences - s)
    for (let first = 0; first < tokens; first += cut.queries) {
      const keys = Math.min(tokens, first + cut.queries)
      const queries = keys - first
      const rows = (a: Float32Array, from: number, count: number) =>
        a.subarray((s * tokens + from) * cols, (s * tokens + from + sequences * count) * cols)
      const scores = scratch.mask.subarray(0, sequences * queries * keys)
      fillMask(scores, arrays.keyMask, s, { tokens, first, queries, keys })
      await ops.attention(
        rows(arrays.q, first, queries),
        rows(arrays.k, 0, keys),
        rows(arrays.v, 0, keys),
        scores,
        rows(arrays.y, first, queries),
        { sequences, queries, keys, heads },
      )
    }
  }
}

/** 0 where query row first + i may see key j, MASKED elsewhere. */
function fillMask(
  out: Float32Array,
  keyMask: Float32Array,
  sequence: number,
  block: { tokens: number; first: number; queries: number; keys: number },
): void {
  const { tokens, first, queries, keys } = block
  const batch = keyMask.length / tokens
  out.fill(MASKED)
  for (let row = 0; row < out.length / keys; row++) {
    const base = ((sequence + Math.floor(row / queries)) % batch) * tokens
    const last = first + (row % queries)
    for (let key = 0; key <= last; key++) {
      if (keyMask[base + key] !== 0) out[row * keys + key] = 0
    }
  }
}
