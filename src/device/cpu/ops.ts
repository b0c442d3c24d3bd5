// The arithmetic of the cpu device besides matrix products (products.ts) and attention
// (attention-graph.ts): norms, sums and activations, run in place on plain f32 arrays. Order, memory and
// perturbed weights belong to device.ts and noise-pool.ts, sessions and threads to sessions.ts.

import type { Activation } from '../device.ts'
import { createAttentionOps, type AttentionOps } from './attention-graph.ts'
import { createHalfOps, type HalfOps } from './f16.ts'
import type { Blas } from './blas.ts'
import { constant, type OnnxGraph, type OnnxNode } from './onnx.ts'
import { createProducts, type Products } from './products.ts'
import { createSessions, f32 } from './sessions.ts'

export interface CpuOps extends Products, HalfOps, AttentionOps {
  /** y = (x - mean) / sqrt(var + eps) * scale + bias over rows of scale.length. */
  layerNorm(
    x: Float32Array,
    scale: Float32Array,
    bias: Float32Array,
    eps: number,
    y: Float32Array,
  ): Promise<void>
  /** y = x / sqrt(mean of x^2 + eps) * scale over groups of scale.length. */
  rmsNorm(x: Float32Array, scale: Float32Array, eps: number, y: Float32Array): Promise<void>
  /** y += x. */
  add(x: Float32Array, y: Float32Array): Promise<void>
  /** y = f(x); x and y must not overlap. */
  activation(kind: Activation, x: Float32Array, y: Float32Array): Promise<void>
  /** y = x * z; y may be either. */
  multiply(x: Float32Array, z: Float32Array, y: Float32Array): Promise<void>
  close(): void
}

const MS = 'com.microsoft'
/** The library's sigmoid ends at -18; exp(-x) may become infinite, and x divided by that is the limit, 0. */
const SILU: readonly OnnxNode[] = [
  { op: 'Neg', inputs: ['x'], outputs: ['n'] },
  { op: 'Exp', inputs: ['n'], outputs: ['e'] },
  constant('one', 1),
  { op: 'Add', inputs: ['e', 'one'], outputs: ['d'] },
  { op: 'Div', inputs: ['x', 'd'], outputs: ['y'] },
]
const ACTIVATIONS: Readonly<Record<Activation, readonly OnnxNode[]>> = {
  relu: [{ op: 'Relu', inputs: ['x'], outputs: ['y'] }],
  gelu: [{ op: 'Gelu', domain: MS, inputs: ['x'], outputs: ['y'] }],
  gelu_new: [{ op: 'FastGelu', domain: MS, inputs: ['x'], outputs: ['y'] }],
  silu: SILU,
}

export function createOps(threads: number, blas: Blas | null = null): CpuOps {
  const sessions = createSessions()
  const { run } = sessions
  return {
    ...createProducts(sessions, threads, blas),
    ...createHalfOps(sessions, threads),
    ...createAttentionOps(sessions, threads),
    async layerNorm(x, scale, bias, eps, y) {
      const cols = scale.length
      const rows = x.length / cols
      const feeds = { x: f32(x, rows, cols), s: f32(scale, cols), b: f32(bias, cols) }
      const fetches = { y: f32(y, rows, cols) }
      await run(`layerNorm ${eps}`, () => layerNormGraph(eps), threads, feeds, fetches)
    },
    async rmsNorm(x, scale, eps, y) {
      const cols = scale.length
      const groups = x.length / cols
      const feeds = { x: f32(x, groups, cols), s: f32(scale, cols) }
      const fetches = { y: f32(y, groups, cols) }
      await run(`rmsNorm ${eps}`, () => rmsNormGraph(eps), threads, feeds, fetches)
    },
    async add(x, y) {
      const feeds = { x: f32(x, x.length), z: f32(y, y.length) }
      await run('add', () => addGraph, threads, feeds, { y: f32(y, y.length) })
    },
    async activation(kind, x, y) {
      const graph = () => ({ nodes: ACTIVATIONS[kind], inputs: { x: 1 }, outputs: { y: 1 } })
      await run(kind, graph, threads, { x: f32(x, x.length) }, { y: f32(y, y.length) })
    },
    async multiply(x, z, y) {
      const feeds = { x: f32(x, x.length), z: f32(z, z.length) }
      await run('multiply', () => multiplyGraph, threads, feeds, { y: f32(y, y.length) })
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

const rmsNormGraph = (eps: number): OnnxGraph => ({
  nodes: [
    {
      op: 'SimplifiedLayerNormalization',
      inputs: ['x', 's'],
      outputs: ['y'],
      attributes: { epsilon: { float: eps }, axis: { int: -1 } },
    },
  ],
  inputs: { x: 2, s: 1 },
  outputs: { y: 2 },
})

const multiplyGraph: OnnxGraph = {
  nodes: [{ op: 'Mul', inputs: ['x', 'z'], outputs: ['y'] }],
  inputs: { x: 1, z: 1 },
  outputs: { y: 1 },
}

const addGraph: OnnxGraph = {
  nodes: [{ op: 'Add', inputs: ['x', 'z'], outputs: ['y'] }],
  inputs: { x: 1, z: 1 },
  outputs: { y: 1 },
}
