// Causal attention with padding on the cpu device, cut so that its workspace stays small:
// several whole sequences at once, or blocks of query rows of one sequence, which then see only the
// keys up to their last row. Queries are the last tokens of their keys. How it is cut is said in
// attention-split.ts, the arithmetic in ops.ts. A row that sees no key has all its scores at MASKED:
// soft-max makes them the mean of the values, as the contract asks, where the block has all keys.

import { attentionElements, cutAttention, type AttentionShape } from './attention-split.ts'
import type { CpuOps } from './ops.ts'

/** Added to masked scores: their weight is exactly 0 where there is any other key, and finite. */
const MASKED = -1e30

interface AttentionArrays {
  readonly q: Float32Array
  readonly k: Float32Array
  readonly v: Float32Array
  /** [B, S], 1 for tokens and 0 for padding. */
  readonly keyMask: Float32Array
  readonly y: Float32Array
}

/**
 * y = attention of shape.sequences sequences; sequence s takes row s % B of keyMask.
 * `scratch.attention`, which memory.ts sets aside, takes the mask and the workspace of a call.
 */
export async function attend(
  ops: CpuOps,
  arrays: AttentionArrays,
  shape: AttentionShape,
  scratch: { attention: Float32Array },
): Promise<void> {
  const { tokens, keys, heads } = shape
  const cols = heads * shape.headSize
  const cut = cutAttention(shape)
  if (attentionElements(shape, cut) > scratch.attention.length) {
    throw new Error('cpu device: attention is larger than what reserve() was told')
  }
  for (let s = 0; s < shape.sequences; s += cut.sequences) {
    const sequences = Math.min(cut.sequences, shape.sequences - s)
    for (let first = 0; first < tokens; first += cut.queries) {
      const queries = Math.min(cut.queries, tokens - first)
      const seen = keys - tokens + first + queries
      /** Several sequences are whole ones; of a single one, rows [from, from + count). */
      const rows = (a: Float32Array, length: number, from: number, count: number) =>
        a.subarray((s * length + from) * cols, (s * length + from + sequences * count) * cols)
      const mask = scratch.attention.subarray(0, sequences * queries * seen)
      fillMask(mask, arrays.keyMask, s, { keys, queries, seen })
      await ops.attention(
        rows(arrays.q, tokens, first, queries),
        rows(arrays.k, keys, 0, seen),
        rows(arrays.v, keys, 0, seen),
        mask,
        rows(arrays.y, tokens, first, queries),
        { sequences, queries, keys: seen, heads },
        scratch.attention.subarray(mask.length),
      )
      const [y, v] = [rows(arrays.y, tokens, first, queries), rows(arrays.v, keys, 0, keys)]
      if (seen < keys) fillUnseen(y, v, mask, cols)
    }
  }
}

/**
 * Rows of a block of one sequence that see none of the block's keys, whose `mask` is [queries, seen],
 * become the mean of the sequence's values v [S, cols], of which the block had only the first.
 */
export function fillUnseen(
  y: Float32Array,
  v: Float32Array,
  mask: Float32Array,
  cols: number,
): void {
  const seen = (mask.length * cols) / y.length
  let mean: Float64Array | undefined
  for (let query = 0; query * cols < y.length; query++) {
    if (mask.subarray(query * seen, (query + 1) * seen).includes(0)) continue
    mean ??= meanRow(v, cols)
    y.set(mean, query * cols)
  }
}

function meanRow(rows: Float32Array, cols: number): Float64Array {
  const mean = new Float64Array(cols)
  rows.forEach((value, i) => (mean[i % cols]! += value))
  return mean.map((sum) => (sum * cols) / rows.length)
}

/** 0 where a query row may see a key, MASKED elsewhere: the last row sees all `seen` keys. */
export function fillMask(
  out: Float32Array,
  keyMask: Float32Array,
  sequence: number,
  block: { keys: number; queries: number; seen: number },
): void {
  const { keys, queries, seen } = block
  const batch = keyMask.length / keys
  out.fill(MASKED)
  for (let row = 0; row < out.length; row += queries * seen) {
    const base = ((sequence + row / (queries * seen)) % batch) * keys
    const visible = keyMask.slice(base, base + seen).map((kept) => (kept === 0 ? MASKED : 0))
    for (let query = 0; query < queries; query++) {
      out.set(visible.subarray(0, seen - queries + query + 1), row + query * seen)
    }
  }
}
