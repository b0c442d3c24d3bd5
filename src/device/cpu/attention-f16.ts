// Attention of f16 rows on the cpu device: a few heads at a time, whose keys and values of one sequence (or
// of several short ones) are widened whole, and whose queries and results go by blocks of rows, each as
// attention.ts does it. How it is cut is said in attention-split.ts.

import { attentionElements, cutHalves, widenedElements } from './attention-split.ts'
import type { AttentionShape } from './attention-split.ts'
import { fillMask, fillUnseen } from './attention.ts'
import { frontOf } from './f16.ts'
import type { CpuOps } from './ops.ts'

interface HalfArrays {
  readonly q: Uint16Array
  readonly k: Uint16Array
  readonly v: Uint16Array
  /** [B, S], 1 for tokens and 0 for padding. */
  readonly keyMask: Float32Array
  readonly y: Uint16Array
}

/** As attend of attention.ts; `scratch.wide` takes what is widened. */
export async function attendHalves(
  ops: CpuOps,
  { q, k, v, keyMask, y }: HalfArrays,
  shape: AttentionShape,
  scratch: { attention: Float32Array; wide: Float32Array },
): Promise<void> {
  const { tokens, keys, headSize } = shape
  const all = shape.heads * headSize
  const cut = cutHalves(shape)
  if (attentionElements({ ...shape, heads: cut.heads }, cut) > scratch.attention.length) {
    throw new Error('cpu device: attention is larger than what reserve() was told')
  }
  const wide = frontOf(scratch.wide, widenedElements(shape, cut))
  for (let s = 0; s < shape.sequences; s += cut.sequences) {
    const sequences = Math.min(cut.sequences, shape.sequences - s)
    for (let head = 0; head < shape.heads; head += cut.heads) {
      const heads = Math.min(cut.heads, shape.heads - head)
      const [first, cols] = [head * headSize, heads * headSize]
      const part = (at: number, rows: number) => wide.subarray(at, at + rows * cols)
      const ofKeys = sequences * keys * cols
      const [k32, v32] = [part(0, sequences * keys), part(ofKeys, sequences * keys)]
      const span = [s * keys * all, (s + sequences) * keys * all] as const
      await ops.widen(k.subarray(...span), all, first, k32, cols)
      await ops.widen(v.subarray(...span), all, first, v32, cols)
      for (let token = 0; token < tokens; token += cut.queries) {
        const queries = Math.min(cut.queries, tokens - token)
        const seen = keys - tokens + token + queries
        const count = sequences * queries
        const [q32, y32] = [part(2 * ofKeys, count), part(2 * ofKeys + count * cols, count)]
        const row = s * tokens + token
        const rows = [row * all, (row + count) * all] as const
        await ops.widen(q.subarray(...rows), all, first, q32, cols)
        const mask = scratch.attention.subarray(0, count * seen)
        const room = scratch.attention.subarray(mask.length)
        fillMask(mask, keyMask, s, { keys, queries, seen })
        const [seenK, seenV] = [k32, v32].map((a) => a.subarray(0, sequences * seen * cols))
        const call = { sequences, queries, keys: seen, heads }
        await ops.attention(q32, seenK!, seenV!, mask, y32, call, room)
        if (seen < keys) fillUnseen(y32, v32, mask, cols)
        await ops.narrowColumns(y32, y.subarray(...rows), all, first, q32)
      }
    }
  }
}
