// The arithmetic of the cpu device: one small ONNX Runtime session for each operation, made when first
// needed, run in place on plain f32 arrays. Order, memory and perturbed weights belong to device.ts
// and prepare.ts. Facts about the kernels: `Gemm` is MLAS sgemm; its blocking over K depends on the
// number of columns one thread gets, hence `stableThreads`.

import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Activation } from '../device.ts'
import { encodeModel, type OnnxGraph, type OnnxNode } from './onnx.ts'

export interface AttentionCall {
  readonly sequences: number
  readonly queries: number
  readonly keys: number
  readonly heads: number
}

export interface GemmSize {
  readonly m: number
  readonly n: number
  readonly k: number
}

export interface CpuOps {
  /** y [m, n] = x [m, k] * w [n, k]^T + bias [n] (or nothing), then relu if asked for. */
  gemm(
    x: Float32Array,
    w: Float32Array,
    bias: Float32Array | null,
    y: Float32Array,
    size: GemmSize,
    relu?: boolean,
  ): Promise<void>
  /**
   * For each row of logits = x [m, k] * w [n, k]^T: the largest, sum(exp(logit - largest)), and the
   * logit in column columns[row]. The logits themselves never leave the library.
   */
  head(
    x: Float32Array,
    w: Float32Array,
    columns: BigInt64Array,
    into: { max: Float32Array; sum: Float32Array; target: Float32Array },
    size: GemmSize,
  ): Promise<void>
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
  close(): Promise<void>
}

const MS = 'com.microsoft'
const ACTIVATIONS: Readonly<Record<Activation, OnnxNode>> = {
  relu: { op: 'Relu', inputs: ['x'], outputs: ['y'] },
  gelu: { op: 'Gelu', domain: MS, inputs: ['x'], outputs: ['y'] },
  gelu_new: { op: 'FastGelu', domain: MS, inputs: ['x'], outputs: ['y'] },
}

/**
 * The largest of threads, threads/2, threads/4, ... that gives the bits of one thread. MLAS cuts
 * the rows of x among threads where m >= n (harmless, except that a single row takes another
 * kernel), else the columns in blocks of 16; pieces of at most 64 columns get a longer K block,
 * which changes the order of the sum.
 */
export function stableThreads(m: number, n: number, threads: number): number {
  const stable = (t: number) => (m >= n ? t <= m / 2 : Math.floor(Math.ceil(n / 16) / t) >= 5)
  let t = threads
  while (t > 1 && !stable(t)) t >>= 1
  return t
}

const f32 = (data: Float32Array, ...dims: number[]) => new Tensor('float32', data, dims)

export function createOps(threads: number): CpuOps {
  const sessions = createSessions()
  const { run } = sessions
  return {
    async gemm(x, w, bias, y, { m, n, k }, relu = false) {
      const t = stableThreads(m, n, threads)
      const feeds = { x: f32(x, m, k), w: f32(w, n, k), ...(bias && { b: f32(bias, n) }) }
      const graph = () => gemmGraph(bias !== null, relu)
      await run(`gemm ${bias !== null} ${relu}`, graph, t, feeds, { y: f32(y, m, n) })
    },
    async head(x, w, columns, { max, sum, target }, { m, n, k }) {
      const t = stableThreads(m, n, threads)
      const index = new Tensor('int64', columns, [m, 1])
      const feeds = { x: f32(x, m, k), w: f32(w, n, k), i: index }
      const fetches = { m: f32(max, m, 1), s: f32(sum, m, 1), t: f32(target, m, 1) }
      await run('head', () => headGraph, t, feeds, fetches)
    },
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

type Values = Record<string, Tensor>

/** Sessions by name and thread count; `run` makes the missing one. */
function createSessions() {
  const sessions = new Map<string, Promise<InferenceSession>>()
  return {
    async run(name: string, graph: () => OnnxGraph, threads: number, feeds: Values, into: Values) {
      const key = `${name} ${threads}`
      let session = sessions.get(key)
      if (!session) sessions.set(key, (session = openSession(graph(), threads)))
      await (await session).run(feeds, into)
    },
    async close() {
      const open = await Promise.allSettled(sessions.values())
      sessions.clear()
      for (const s of open) if (s.status === 'fulfilled') await s.value.release()
    },
  }
}

/** No arena: it would keep the largest workspace. No spinning: the noise workers need the cores. */
function openSession(graph: OnnxGraph, threads: number): Promise<InferenceSession> {
  return InferenceSession.create(encodeModel(graph), {
    executionProviders: ['cpu'],
    executionMode: 'sequential',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    enableCpuMemArena: false,
    enableMemPattern: false,
    logSeverityLevel: 3,
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  })
}

const gemmNode = (inputs: string[], output: string): OnnxNode => ({
  op: 'Gemm',
  inputs,
  outputs: [output],
  attributes: { transB: { int: 1 } },
})

/** The library fuses the two nodes of a product with relu. */
const gemmGraph = (bias: boolean, relu: boolean): OnnxGraph => ({
  nodes: [
    gemmNode(bias ? ['x', 'w', 'b'] : ['x', 'w'], relu ? 'z' : 'y'),
    ...(relu ? [{ op: 'Relu', inputs: ['z'], outputs: ['y'] }] : []),
  ],
  inputs: { x: 2, w: 2, ...(bias && { b: 1 }) },
  outputs: { y: 2 },
})

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

const headGraph: OnnxGraph = {
  nodes: [
    gemmNode(['x', 'w'], 'z'),
    { op: 'GatherElements', inputs: ['z', 'i'], outputs: ['t'], attributes: { axis: { int: 1 } } },
    { op: 'ReduceMax', inputs: ['z'], outputs: ['m'], attributes: { axes: { ints: [-1] } } },
    { op: 'Sub', inputs: ['z', 'm'], outputs: ['d'] },
    { op: 'Exp', inputs: ['d'], outputs: ['e'] },
    { op: 'Constant', inputs: [], outputs: ['last'], attributes: { value_ints: { ints: [-1] } } },
    { op: 'ReduceSum', inputs: ['e', 'last'], outputs: ['s'] },
  ],
  inputs: { x: 2, w: 2, i: 2 },
  int64: ['i'],
  outputs: { m: 2, s: 2, t: 2 },
}
