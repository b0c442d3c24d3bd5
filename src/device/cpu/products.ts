// Matrix products of the cpu device, and what they start from: nothing, a bias, or what is in the memory
// of the result, where the left product of a factored addend is put before (CHANGELOG, 2026-11-23:
// a start value in memory of its own costs a tenth of the product). Which rows and tiles meet is said
// in matrices.ts, how factors are laid out in addends.ts. `Gemm` and `MatMul` are MLAS sgemm (stableThreads).

import type { OnnxGraph, OnnxNode } from './onnx.ts'
import { f32, ints, stableThreads, type Sessions } from './sessions.ts'

interface GemmSize {
  readonly m: number
  readonly n: number
  readonly k: number
}

/** What a product [m, n] starts from; 'there': from what the memory of the result holds. */
export type Start = 'zero' | 'there' | { readonly bias: Float32Array }

/**
 * For each of the m rows, m/probes of each probe: left[probe] [blocks, inner] * row [inner, width]
 * flattened, of which columns [skip, skip + n) are taken, plus bias[probe] [n].
 */
interface Kronecker {
  readonly probes: number
  readonly blocks: number
  readonly inner: number
  readonly width: number
  readonly skip: number
  readonly rows: Float32Array
  readonly left: Float32Array
  readonly bias: Float32Array | null
  /** [m, blocks*width] for the whole of what is cut; not used if nothing is. */
  readonly room: Float32Array
}

interface GemmOptions {
  readonly start?: Start
  readonly relu?: boolean
  /** w is [k, n] instead. */
  readonly transposed?: boolean
}

/** Of each row, [m]. */
interface HeadResult {
  /** log of the sum of exp(logit). */
  readonly lse: Float32Array
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
  /** y [m, n] = the factored product. */
  kronecker(factors: Kronecker, y: Float32Array, m: number, n: number): Promise<void>
  /**
   * Of each row of logits = start + x [m, k] * w [n, k]^T the log of the sum of exp, and the logit in
   * column columns[row]. `logits` and `room` are [m, n]; the logits start from what is `there` or zero.
   */
  head(
    x: Float32Array,
    w: Float32Array,
    columns: Int32Array,
    into: HeadResult,
    size: GemmSize,
    memory: { readonly logits: Float32Array; readonly room: Float32Array },
    options?: { readonly start?: 'zero' | 'there' },
  ): Promise<void>
}

export function createProducts({ run }: Sessions, threads: number): Products {
  return {
    async gemm(x, w, y, { m, n, k }, { start = 'zero', relu = false, transposed = false } = {}) {
      const result = f32(y, m, n)
      const c = start === 'there' ? result : start === 'zero' ? null : f32(start.bias, n)
      const feeds = {
        x: f32(x, m, k),
        w: transposed ? f32(w, k, n) : f32(w, n, k),
        ...(c && { c }),
      }
      const rank = c ? c.dims.length : 0
      const graph = () => gemmGraph(rank, relu, transposed)
      const name = `gemm ${rank} ${relu} ${transposed}`
      await run(name, graph, stableThreads(m, n, threads), feeds, { y: result })
    },
    async kronecker({ probes, blocks, inner, width, skip, rows, left, bias, room }, y, m, n) {
      const each = m / probes
      const all = blocks * width
      const feeds = {
        l: f32(left, probes, 1, blocks, inner),
        z: f32(rows, probes, each, inner, width),
      }
      // Small products are shared out among threads whole if there are enough of them; otherwise
      // each must be safe to cut.
      const t = m >= threads ? threads : stableThreads(blocks, width, threads)
      const into = all === n ? y : room
      await run('kronecker', () => kroneckerGraph, t, feeds, {
        y: f32(into, probes, each, blocks, width),
      })
      if (all !== n) {
        const from = { x: f32(room, m, all), from: ints(skip), to: ints(skip + n) }
        await run('columns', () => columnsGraph, threads, from, { y: f32(y, m, n) })
      }
      if (!bias) return
      const sum = f32(y, probes, each, n)
      await run(
        'add bias',
        () => addBiasGraph,
        threads,
        { y0: sum, b: f32(bias, probes, 1, n) },
        { y: sum },
      )
    },
    async head(
      x,
      w,
      columns,
      { lse, target },
      { m, n, k },
      { logits, room },
      { start = 'zero' } = {},
    ) {
      const h = f32(logits.subarray(0, m * n), m, n)
      const index = { data: columns, dims: [m, 1] }
      const feeds = {
        x: f32(x, m, k),
        w: f32(w, n, k),
        i: index,
        ...(start === 'there' && { c: h }),
      }
      const into = {
        h,
        d: f32(room.subarray(0, m * n), m, n),
        t: f32(target, m, 1),
        g: f32(lse, m, 1),
      }
      const t = stableThreads(m, n, threads)
      await run(`head ${start}`, () => headGraph(start === 'there'), t, feeds, into)
      // log-softmax is logit - lse; any column tells it.
      for (let row = 0; row < m; row++) lse[row] = target[row]! - lse[row]!
    },
  }
}

/** x * w + c, where c has `rank` dimensions, none if 0. */
const gemmNode = (rank: number, output: string, transposed = false): OnnxNode => ({
  op: 'Gemm',
  inputs: rank > 0 ? ['x', 'w', 'c'] : ['x', 'w'],
  outputs: [output],
  attributes: { transB: { int: transposed ? 0 : 1 } },
})

/** The library fuses a product and the relu after it. */
const gemmGraph = (rank: number, relu: boolean, transposed: boolean): OnnxGraph => ({
  nodes: [
    gemmNode(rank, relu ? 'z0' : 'y', transposed),
    ...(relu ? [{ op: 'Relu', inputs: ['z0'], outputs: ['y'] }] : []),
  ],
  inputs: { x: 2, w: 2, ...(rank > 0 && { c: rank }) },
  outputs: { y: 2 },
})

const kroneckerGraph: OnnxGraph = {
  nodes: [{ op: 'MatMul', inputs: ['l', 'z'], outputs: ['y'] }],
  inputs: { l: 4, z: 4 },
  outputs: { y: 4 },
}

/** y = x[:, from .. to). */
const columnsGraph: OnnxGraph = {
  nodes: [
    { op: 'Constant', inputs: [], outputs: ['axis'], attributes: { value_ints: { ints: [1] } } },
    { op: 'Slice', inputs: ['x', 'from', 'to', 'axis'], outputs: ['y'] },
  ],
  inputs: { x: 2 },
  integers: { from: 'int64', to: 'int64' },
  outputs: { y: 2 },
}

const addBiasGraph: OnnxGraph = {
  nodes: [{ op: 'Add', inputs: ['y0', 'b'], outputs: ['y'] }],
  inputs: { y0: 3, b: 3 },
  outputs: { y: 3 },
}

/** Logits h, their log-softmax d, and one column of each: t and g. */
const headGraph = (there: boolean): OnnxGraph => ({
  nodes: [
    gemmNode(there ? 2 : 0, 'h'),
    { op: 'LogSoftmax', inputs: ['h'], outputs: ['d'], attributes: { axis: { int: -1 } } },
    { op: 'GatherElements', inputs: ['h', 'i'], outputs: ['t'], attributes: { axis: { int: 1 } } },
    { op: 'GatherElements', inputs: ['d', 'i'], outputs: ['g'], attributes: { axis: { int: 1 } } },
  ],
  inputs: { x: 2, w: 2, ...(there && { c: 2 }) },
  integers: { i: 'int32' },
  outputs: { h: 2, d: 2, t: 2, g: 2 },
})
