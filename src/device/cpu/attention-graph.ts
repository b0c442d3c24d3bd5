// The arithmetic of attention on the cpu device: one graph of the library's operations, head by head, with all
// results in memory of the caller's. Which rows go there is said in attention.ts.

import type { AttentionDims } from '../packed.ts'
import type { CallShape } from './attention-plan.ts'
import { constant, type OnnxGraph, type OnnxNode } from './onnx.ts'
import { f32, type Sessions } from './sessions.ts'

/** Rows of the S blocks of a call, each padded to Q queries and K keys. */
interface CallRows {
  /** [S*Q, kvHeads*shared*D] */
  readonly q: Float32Array
  /** [S*K, kvHeads*D] */
  readonly k: Float32Array
  readonly v: Float32Array
  /** [S, Q, K], added to the scores of every head. */
  readonly mask: Float32Array
  /** As q, which it may be. */
  readonly y: Float32Array
}

export interface AttentionOps {
  /**
   * y = softmax(capped(q*scale * k^T) + mask) * v. `room` takes the scores of all heads, and q (then y), k and v
   * head by head.
   */
  attention(
    rows: CallRows,
    shape: CallShape,
    scores: Pick<AttentionDims, 'scale' | 'cap'>,
    room: Float32Array,
  ): Promise<void>
}

export function createAttentionOps({ run }: Sessions, threads: number): AttentionOps {
  return {
    async attention({ q, k, v, mask, y }, shape, { scale, cap }, room) {
      const { blocks, queries, keys, kvHeads, shared, headSize } = shape
      let used = 0
      const take = (...dims: number[]) => {
        const first = used
        used += dims.reduce((product, dim) => product * dim, 1)
        return f32(room.subarray(first, used), ...dims)
      }
      const feeds = {
        q: f32(q, blocks, queries, kvHeads, shared, headSize),
        k: f32(k, blocks, keys, kvHeads, 1, headSize),
        v: f32(v, blocks, keys, kvHeads, 1, headSize),
        a: f32(mask, blocks, 1, 1, queries, keys),
      }
      const scores = take(blocks, kvHeads, shared, queries, keys)
      const rows = take(blocks, kvHeads, shared, queries, headSize)
      const into = {
        s: scores,
        ...(cap !== undefined && { t: scores, c: scores }),
        m: scores,
        w: scores,
        qh: rows,
        kh: take(blocks, kvHeads, 1, keys, headSize),
        vh: take(blocks, kvHeads, 1, keys, headSize),
        yh: rows,
        y: f32(y, blocks, queries, kvHeads, shared, headSize),
      }
      const t = threadsOf(shape, threads)
      const name = `attention ${scale} ${cap}`
      await run(name, () => attentionGraph(scale, cap), t, feeds, into)
    },
  }
}

/**
 * Threads that give the bits of one. Whole products are shared out among them; where there are too few, each is cut:
 * by its rows, or scores by keys, which does no harm where heads are short (see stableThreads). The library
 * makes one product of heads that share the only head of keys.
 */
function threadsOf({ blocks, queries, kvHeads, shared, headSize }: CallShape, threads: number) {
  const single = blocks * kvHeads === 1
  const products = single ? 1 : blocks * kvHeads * shared
  const harmless = headSize <= 128 && (single ? shared : 1) * queries >= headSize
  const most = Math.max(products, harmless ? queries / 2 : 1)
  let t = threads
  while (t > 1 && t > most) t >>= 1
  return t
}

/** [S, rows, kvHeads, shared, D] as [S, kvHeads, shared, rows, D]. */
const byHead = (input: string, output: string): OnnxNode => ({
  op: 'Transpose',
  inputs: [input],
  outputs: [output],
  attributes: { perm: { ints: [0, 2, 3, 1, 4] } },
})

/** Scores s are divided by the cap already: t = tanh of them, and c the cap times that. */
const cappedScores = (cap: number): OnnxNode[] => [
  { op: 'Tanh', inputs: ['s'], outputs: ['t'] },
  constant('cap', cap),
  { op: 'Mul', inputs: ['t', 'cap'], outputs: ['c'] },
]

/**
 * Head by head: scores s, m with the mask, their soft-max w, and the values' weighted sums yh. Everything in between
 * is an output, so that it has memory of the caller's: the library's own operator allocates it anew in
 * every call, half of its time (CHANGELOG, 2026-11-28).
 */
const attentionGraph = (scale: number, cap?: number): OnnxGraph => ({
  nodes: [
    ...[byHead('q', 'qh'), byHead('k', 'kh'), byHead('v', 'vh')],
    {
      op: 'FusedMatMul',
      domain: 'com.microsoft',
      inputs: ['qh', 'kh'],
      outputs: ['s'],
      attributes: { alpha: { float: scale / (cap ?? 1) }, transB: { int: 1 } },
    },
    ...(cap === undefined ? [] : cappedScores(cap)),
    { op: 'Add', inputs: [cap === undefined ? 's' : 'c', 'a'], outputs: ['m'] },
    { op: 'Softmax', inputs: ['m'], outputs: ['w'], attributes: { axis: { int: -1 } } },
    { op: 'MatMul', inputs: ['w', 'vh'], outputs: ['yh'] },
    {
      op: 'Transpose',
      inputs: ['yh'],
      outputs: ['y'],
      attributes: { perm: { ints: [0, 3, 1, 2, 4] } },
    },
  ],
  inputs: { q: 5, k: 5, v: 5, a: 5 },
  outputs: {
    ...{ qh: 5, kh: 5, vh: 5, s: 5, m: 5, w: 5, yh: 5, y: 5 },
    ...(cap !== undefined && { t: 5, c: 5 }),
  },
})
