// The arithmetic of the cpu device besides matrix products (products.ts): norms, attention, sums and
// activations, run in place on plain f32 arrays. Order, memory and perturbed weights belong to
// device.ts and prepare.ts, sessions and threads to sessions.ts.

import type { Activation } from '../device.ts'
import { createHalfOps, type HalfOps } from './halves.ts'
import type { OnnxGraph, OnnxNode } from './onnx.ts'
import { createProducts, type Products } from './products.ts'
import { createSessions, f32 } from './sessions.ts'

export interface AttentionCall {
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
   */
  attention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    mask: Float32Array,
    y: Float32Array,
    call: AttentionCall,
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
    async attention(q, k, v, mask, y, { sequences, queries, keys, heads }) {
      const cols = q.length / (sequences * queries)
      const feeds = {
        q: f32(q, sequences, queries, cols),
        k: f32(k, sequences, keys, cols),
        v: f32(v, sequences, keys, cols),
        a: f32(mask, sequences, 1, queries, keys),
      }
      const fetches = { y: f32(y, sequences, queries, cols) }
      await run(`attention ${heads}`, () => attentionGraph(heads), threads, feeds, fetches)
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

const attentionGraph = (heads: number): OnnxGraph => ({
  nodes: [
    {
      op: 'MultiHeadAttention',
      domain: MS,
      inputs: ['q', 'k', 'v', '', '', 'a'],
      outputs: ['y'],
      attributes: { num_heads: { int: heads } },
    },
  ],
  inputs: { q: 3, k: 3, v: 3, a: 4 },
  outputs: { y: 3 },
})

const addGraph: OnnxGraph = {
  nodes: [{ op: 'Add', inputs: ['x', 'z'], outputs: ['y'] }],
  inputs: { x: 1, z: 1 },
  outputs: { y: 1 },
}
