// The arithmetic of the cpu device besides matrix products (products.ts): norms, attention, sums and
// activations, run in place on plain f32 arrays. Order, memory and perturbed weights belong to
// device.ts and noise-pool.ts, sessions and threads to sessions.ts.

import type { Activation } from '../device.ts'
import { createHalfOps, type HalfOps } from './f16.ts'
import type { OnnxGraph, OnnxNode } from './onnx.ts'
import { createProducts, type Products } from './products.ts'
import { createSessions, f32 } from './sessions.ts'

interface AttentionCall {
  readonly sequences: number
  readonly queries: number
  readonly keys: number
  readonly heads: number
}

export interface CpuOps extends Products, HalfOps {
  /** y = (x - mean) / sqrt(var + eps) * scale + bias over rows of scale.length. */
  layerNorm(
    x: Float32Array,
    scale: Float32Array,
    bias: Float32Array,
    eps: number,
    y: Float32Array,
  ): Promise<void>
  /**
   * y = softmax(q*D^-0.5 * k^T + mask) * v per head; q, y [sequences*queries, C],
   * k, v [sequences*keys, C], mask [sequences, queries, keys] is added to every head's scores.
   * `room` takes the scores of all heads, q, k and v head by head, and the result likewise.
   */
  attention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    mask: Float32Array,
    y: Float32Array,
    call: AttentionCall,
    room: Float32Array,
  ): Promise<void>
  /** y += x. */
  add(x: Float32Array, y: Float32Array): Promise<void>
  /** y = f(x); x and y must not overlap. */
  activation(kind: Activation, x: Float32Array, y: Float32Array): Promise<void>
  close(): void
}

const MS = 'com.microsoft'
const ACTIVATIONS: Readonly<Record<Activation, OnnxNode>> = {
  relu: { op: 'Relu', inputs: ['x'], outputs: ['y'] },
  gelu: { op: 'Gelu', domain: MS, inputs: ['x'], outputs: ['y'] },
  gelu_new: { op: 'FastGelu', domain: MS, inputs: ['x'], outputs: ['y'] },
}

export function createOps(threads: number): CpuOps {
  const sessions = createSessions()
  const { run } = sessions
  return {
    ...createProducts(sessions, threads),
    ...createHalfOps(sessions, threads),
    async layerNorm(x, scale, bias, eps, y) {
      const cols = scale.length
      const rows = x.length / cols
      const feeds = { x: f32(x, rows, cols), s: f32(scale, cols), b: f32(bias, cols) }
      const fetches = { y: f32(y, rows, cols) }
      await run(`layerNorm ${eps}`, () => layerNormGraph(eps), threads, feeds, fetches)
    },
    async attention(q, k, v, mask, y, { sequences, queries, keys, heads }, room) {
      const size = q.length / (sequences * queries * heads)
      let used = 0
      const take = (...dims: number[]) => {
        const first = used
        used += dims.reduce((product, dim) => product * dim, 1)
        return f32(room.subarray(first, used), ...dims)
      }
      const feeds = {
        q: f32(q, sequences, queries, heads, size),
        k: f32(k, sequences, keys, heads, size),
        v: f32(v, sequences, keys, heads, size),
        a: f32(mask, sequences, 1, queries, keys),
      }
      const scores = take(sequences, heads, queries, keys)
      const into = {
        s: scores,
        m: scores,
        w: scores,
        qh: take(sequences, heads, queries, size),
        kh: take(sequences, heads, keys, size),
        vh: take(sequences, heads, keys, size),
        yh: take(sequences, heads, queries, size),
        y: f32(y, sequences, queries, heads, size),
      }
      // Whole products are shared out among threads: one that is cut might get other bits.
      let t = threads
      while (t > sequences * heads) t >>= 1
      await run(`attention ${size}`, () => attentionGraph(size), t, feeds, into)
    },
    async add(x, y) {
      const feeds = { x: f32(x, x.length), z: f32(y, y.length) }
      await run('add', () => addGraph, threads, feeds, { y: f32(y, y.length) })
    },
    async activation(kind, x, y) {
      const graph = () => ({ nodes: [ACTIVATIONS[kind]], inputs: { x: 1 }, outputs: { y: 1 } })
      await run(kind, graph, threads, { x: f32(x, x.length) }, { y: f32(y, y.length) })
    },
    close: () => sessions.close(),
  }
}

const layerNormGraph = (eps: number): OnnxGraph => ({
  nodes: [
    {
      op: 'LayerNormalization',
      inputs: ['x', 's', 'b'],
      outputs: ['y'],
      attributes: { epsilon: { float: eps }, axis: { int: -1 } },
    },
  ],
  inputs: { x: 2, s: 1, b: 1 },
  outputs: { y: 2 },
})

/** [.., rows, heads, D] as [.., heads, rows, D], or back. */
const byHead = (input: string, output: string): OnnxNode => ({
  op: 'Transpose',
  inputs: [input],
  outputs: [output],
  attributes: { perm: { ints: [0, 2, 1, 3] } },
})

/**
 * Head by head: scores s, m with the mask, their soft-max w, and the values' weighted sums yh. Everything in between
 * is an output, so that it has memory of the caller's: the library's own operator allocates it anew in
 * every call, half of its time (CHANGELOG, 2026-11-28).
 */
const attentionGraph = (headSize: number): OnnxGraph => ({
  nodes: [
    ...[byHead('q', 'qh'), byHead('k', 'kh'), byHead('v', 'vh')],
    {
      op: 'FusedMatMul',
      domain: MS,
      inputs: ['qh', 'kh'],
      outputs: ['s'],
      attributes: { alpha: { float: headSize ** -0.5 }, transB: { int: 1 } },
    },
    { op: 'Add', inputs: ['s', 'a'], outputs: ['m'] },
    { op: 'Softmax', inputs: ['m'], outputs: ['w'], attributes: { axis: { int: -1 } } },
    { op: 'MatMul', inputs: ['w', 'vh'], outputs: ['yh'] },
    byHead('yh', 'y'),
  ],
  inputs: { q: 4, k: 4, v: 4, a: 4 },
  outputs: { qh: 4, kh: 4, vh: 4, s: 4, m: 4, w: 4, yh: 4, y: 4 },
})

const addGraph: OnnxGraph = {
  nodes: [{ op: 'Add', inputs: ['x', 'z'], outputs: ['y'] }],
  inputs: { x: 1, z: 1 },
  outputs: { y: 1 },
}
