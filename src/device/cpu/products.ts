// Matrix products of the cpu device, with what is added to them: a bias, the result so far, or the left
// product of a factored addend, which the library makes as the start value of the main product, so
// that the factored matrix is never formed. Which rows and tiles meet is said in matrices.ts, how
// factors are laid out in addends.ts. `Gemm` and `MatMul` are MLAS sgemm (stableThreads).

import type { OnnxGraph, OnnxNode } from './onnx.ts'
import type { Value, Values } from './ort.ts'
import { f32, int64, stableThreads, type Sessions } from './sessions.ts'

export interface GemmSize {
  readonly m: number
  readonly n: number
  readonly k: number
}

/** What a product [m, n] starts from. */
export type Start =
  | { readonly kind: 'zero' }
  /** [n], the same for all rows */
  | { readonly kind: 'bias'; readonly bias: Float32Array }
  /** [m, n]; may be the memory of the result */
  | { readonly kind: 'matrix'; readonly matrix: Float32Array }
  | LowRankStart
  | KroneckerStart

/** rows [m, inner] * left [n, inner]^T. */
export interface LowRankStart {
  readonly kind: 'low-rank'
  readonly inner: number
  readonly rows: Float32Array
  readonly left: Float32Array
}

/**
 * For each of the m rows, m/probes of each probe: left[probe] [blocks, inner] * row [inner, width]
 * flattened, of which columns [skip, skip + n) are taken, plus bias[probe] [n].
 */
export interface KroneckerStart {
  readonly kind: 'kronecker'
  readonly probes: number
  readonly blocks: number
  readonly inner: number
  readonly width: number
  readonly skip: number
  readonly rows: Float32Array
  readonly left: Float32Array
  readonly bias: Float32Array | null
}

export interface GemmOptions {
  readonly start?: Start
  readonly relu?: boolean
  /** w is [k, n] instead. */
  readonly transposed?: boolean
}

export interface HeadResult {
  readonly max: Float32Array
  readonly sum: Float32Array
  readonly target: Float32Array
}

export interface Products {
  /** y [m, n] = start + x [m, k] * w [n, k]^T, then relu if asked for. */
  gemm(
    x: Float32Array,
    w: Float32Array,
    y: Float32Array,
    size: GemmSize,
    options?: GemmOptions,
  ): Promise<void>
  /**
   * For each row of logits = start + x [m, k] * w [n, k]^T: the largest, sum(exp(logit - largest)),
   * and the logit in column columns[row]. The logits themselves never leave the library.
   */
  head(
    x: Float32Array,
    w: Float32Array,
    columns: BigInt64Array,
    into: HeadResult,
    size: GemmSize,
    start?: Start,
  ): Promise<void>
}

const ZERO: Start = { kind: 'zero' }

export function createProducts({ run }: Sessions, threads: number): Products {
  return {
    async gemm(x, w, y, size, { start = ZERO, relu = false, transposed = false } = {}) {
      const { m, n, k } = size
      const added = startOf(start, size)
      const feeds = { x: f32(x, m, k), w: transposed ? f32(w, k, n) : f32(w, n, k), ...added.feeds }
      const name = `gemm ${relu} ${transposed} ${added.name}`
      const graph = () => gemmGraph(added.part(), relu, transposed)
      await run(name, graph, threadsFor(start, size, threads), feeds, { y: f32(y, m, n) })
    },
    async head(x, w, columns, { max, sum, target }, size, start = ZERO) {
      const { m, n, k } = size
      const added = startOf(start, size)
      const index = { data: columns, dims: [m, 1] }
      const feeds = { x: f32(x, m, k), w: f32(w, n, k), i: index, ...added.feeds }
      const into = { m: f32(max, m, 1), s: f32(sum, m, 1), t: f32(target, m, 1) }
      const graph = () => headGraph(added.part())
      await run(`head ${added.name}`, graph, threadsFor(start, size, threads), feeds, into)
    },
  }
}

/**
 * Threads for a product and its start. The small products of a Kronecker start are shared out among
 * threads whole if there are enough of them; otherwise each must be safe to cut.
 */
function threadsFor(start: Start, { m, n }: GemmSize, threads: number): number {
  const t = stableThreads(m, n, threads)
  if (start.kind !== 'kronecker' || m >= t) return t
  return Math.min(t, stableThreads(start.blocks, start.width, t))
}

/** A part of a graph that makes value `c`, the start of the main product, and its inputs. */
interface Added {
  readonly name: string
  part(): Part
  readonly feeds: Values
}

interface Part {
  readonly nodes: readonly OnnxNode[]
  /** f32 inputs with their ranks, and int64 inputs of rank 1. */
  readonly inputs: Readonly<Record<string, number>>
  readonly int64?: readonly string[]
}

function startOf(start: Start, { m, n }: GemmSize): Added {
  switch (start.kind) {
    case 'zero':
      return { name: 'zero', part: () => ({ nodes: [], inputs: {} }), feeds: {} }
    case 'bias':
      return given('bias', f32(start.bias, n), 1)
    case 'matrix':
      return given('matrix', f32(start.matrix, m, n), 2)
    case 'low-rank': {
      const feeds = { p: f32(start.rows, m, start.inner), l: f32(start.left, n, start.inner) }
      const part = () => ({ nodes: [gemmNode(['p', 'l'], 'c')], inputs: { p: 2, l: 2 } })
      return { name: 'low-rank', part, feeds }
    }
    case 'kronecker':
      return kronecker(start, m, n)
  }
}

const given = (name: string, value: Value, rank: number): Added => ({
  name,
  part: () => ({ nodes: [], inputs: { c: rank } }),
  feeds: { c: value },
})

function kronecker(start: KroneckerStart, m: number, n: number): Added {
  const { probes, blocks, inner, width, skip, bias } = start
  const cut = blocks * width !== n
  const feeds = {
    l: f32(start.left, probes, 1, blocks, inner),
    z: f32(start.rows, probes, m / probes, inner, width),
    flat: int64(probes, m / probes, blocks * width),
    shape: int64(m, n),
    ...(cut && { from: int64(skip), to: int64(skip + n) }),
    ...(bias && { b: f32(bias, probes, 1, n) }),
  }
  return {
    name: `kronecker ${cut} ${bias !== null}`,
    part: () => kroneckerPart(cut, !!bias),
    feeds,
  }
}

function kroneckerPart(cut: boolean, bias: boolean): Part {
  const whole = cut ? 'cut' : 'flattened'
  return {
    nodes: [
      { op: 'MatMul', inputs: ['l', 'z'], outputs: ['blocks'] },
      { op: 'Reshape', inputs: ['blocks', 'flat'], outputs: ['flattened'] },
      ...(cut
        ? [
            constant('axis', [2]),
            { op: 'Slice', inputs: ['flattened', 'from', 'to', 'axis'], outputs: ['cut'] },
          ]
        : []),
      ...(bias ? [{ op: 'Add', inputs: [whole, 'b'], outputs: ['biased'] }] : []),
      { op: 'Reshape', inputs: [bias ? 'biased' : whole, 'shape'], outputs: ['c'] },
    ],
    inputs: {
      ...{ l: 4, z: 4, flat: 1, shape: 1 },
      ...(cut && { from: 1, to: 1 }),
      ...(bias && { b: 3 }),
    },
    int64: ['flat', 'shape', ...(cut ? ['from', 'to'] : [])],
  }
}

const constant = (name: string, ints: readonly number[]): OnnxNode => ({
  op: 'Constant',
  inputs: [],
  outputs: [name],
  attributes: { value_ints: { ints } },
})

const gemmNode = (inputs: readonly string[], output: string, transposed = false): OnnxNode => ({
  op: 'Gemm',
  inputs,
  outputs: [output],
  attributes: { transB: { int: transposed ? 0 : 1 } },
})

/** The main product, x * w + c if the part makes or is given a c. */
const mainNode = (part: Part, output: string, transposed = false): OnnxNode => {
  const starts = part.nodes.length > 0 || 'c' in part.inputs
  return gemmNode(starts ? ['x', 'w', 'c'] : ['x', 'w'], output, transposed)
}

/** The library fuses a product and the relu after it. */
const gemmGraph = (part: Part, relu: boolean, transposed: boolean): OnnxGraph => ({
  nodes: [
    ...part.nodes,
    mainNode(part, relu ? 'z0' : 'y', transposed),
    ...(relu ? [{ op: 'Relu', inputs: ['z0'], outputs: ['y'] }] : []),
  ],
  inputs: { x: 2, w: 2, ...part.inputs },
  int64: part.int64 ?? [],
  outputs: { y: 2 },
})

const headGraph = (part: Part): OnnxGraph => ({
  nodes: [
    ...part.nodes,
    mainNode(part, 'h'),
    { op: 'GatherElements', inputs: ['h', 'i'], outputs: ['t'], attributes: { axis: { int: 1 } } },
    { op: 'ReduceMax', inputs: ['h'], outputs: ['m'], attributes: { axes: { ints: [-1] } } },
    { op: 'Sub', inputs: ['h', 'm'], outputs: ['d'] },
    { op: 'Exp', inputs: ['d'], outputs: ['e'] },
    constant('last', [-1]),
    { op: 'ReduceSum', inputs: ['e', 'last'], outputs: ['s'] },
  ],
  inputs: { x: 2, w: 2, i: 2, ...part.inputs },
  int64: ['i', ...(part.int64 ?? [])],
  outputs: { m: 2, s: 2, t: 2 },
})
