// Matrix products of the cpu device, and what they start from: nothing, a bias, or what is in the memory
// of the result, where the left product of a factored addend is put before (CHANGELOG, 2026-11-23:
// a start value in memory of its own costs a tenth of the product). Which rows and tiles meet is said
// in matrices.ts, how factors are laid out in addends.ts. `Gemm` and `MatMul` are MLAS sgemm
// (stableThreads); where the system has a BLAS that is used (blas.ts), products with large matrices are its.

import type { Blas } from './blas.ts'
import { constant, type OnnxGraph, type OnnxNode } from './onnx.ts'
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

interface HeadResult {
  /** [m] log of the sum of exp(logit). */
  readonly lse: Float32Array
  /** [m, n] logits of so many columns of each row. */
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
   * Of each row of logits = start + x [m, k] * w [n, k]^T, capped if `cap` is given, the log of the sum of exp, and
   * the logits in some `columns` of its own. `logits` and `room` are [m, n], of two rows at least; the logits start
   * from what is `there` or zero.
   */
  head(
    x: Float32Array,
    w: Float32Array,
    columns: Int32Array,
    into: HeadResult,
    size: GemmSize,
    memory: { readonly logits: Float32Array; readonly room: Float32Array },
    options?: { readonly start?: 'zero' | 'there'; readonly cap?: number | undefined },
  ): Promise<void>
  /** y = cap * tanh(y / cap). */
  softCap(y: Float32Array, cap: number): Promise<void>
}

/**
 * Whether a product goes to the system's BLAS, which multiplies large matrices faster: how many rows there are must not
 * matter, or a row would have other bits among others. OpenBLAS sums in another order where there are up to a million
 * multiplications (of two rows at least), and by one thread where k does not divide evenly.
 */
const isLarge = ({ n, k }: GemmSize) => n * k >= 512 * 1024 && k % 32 === 0

export function createProducts(
  { run }: Sessions,
  threads: number,
  blas: Blas | null = null,
): Products {
  /** As multiply, by the system's BLAS. */
  const multiplyLarge = async (
    { sgemm }: Blas,
    [x, w, y]: readonly [Float32Array, Float32Array, Float32Array],
    size: GemmSize,
    { start = 'zero', relu = false, transposed = false }: GemmOptions,
  ) => {
    if (typeof start !== 'string') {
      for (let row = 0; row < size.m; row++) y.set(start.bias, row * size.n)
    }
    await sgemm(x, w, y, size, { there: start !== 'zero', transposed, threads })
    if (relu)
      await run('relu', () => reluGraph, threads, { x: f32(y, y.length) }, { y: f32(y, y.length) })
  }
  /** m and n are 2 or more. */
  const multiply: Products['gemm'] = async (x, w, y, { m, n, k }, options = {}) => {
    if (blas && isLarge({ m, n, k })) return multiplyLarge(blas, [x, w, y], { m, n, k }, options)
    const { start = 'zero', relu = false, transposed = false } = options
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
  }
  const gemm: Products['gemm'] = async (x, w, y, { m, n, k }, options = {}) => {
    if (m > 1 && n > 1) return multiply(x, w, y, { m, n, k }, options)
    const { start = 'zero', transposed = false } = options
    const [rows, cols] = [Math.max(2, m), Math.max(2, n)]
    const column = () => (transposed ? widened(w, k, 1, k, 2) : widened(w, 1, k, 2, k))
    const into = widened(y, m, n, rows, cols)
    const begin = typeof start === 'string' ? start : { bias: widened(start.bias, 1, n, 1, cols) }
    await multiply(
      widened(x, m, k, rows, k),
      n > 1 ? w : column(),
      into,
      { m: rows, n: cols, k },
      { ...options, start: begin },
    )
    for (let row = 0; row < m; row++) y.set(into.subarray(row * cols, row * cols + n), row * n)
  }
  const softCap: Products['softCap'] = async (y, cap) => {
    const all = f32(y, y.length)
    await run(
      `soft cap ${cap}`,
      () => softCapGraph(cap),
      threads,
      { x: all },
      { s: all, t: all, y: all },
    )
  }
  return {
    gemm,
    softCap,
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
    async head(x, w, columns, into, { m, n, k }, { logits, room }, { start = 'zero', cap } = {}) {
      const { lse, target } = into
      if (n === 1) {
        await gemm(x, w, logits.subarray(0, m), { m, n, k }, { start })
        if (cap !== undefined) await softCap(logits.subarray(0, m), cap)
        lse.set(logits.subarray(0, m))
        for (let i = 0; i < target.length; i++)
          target[i] = lse[Math.floor((i * m) / target.length)]!
        return
      }
      const rows = Math.max(2, m)
      if (m === 1) logits.copyWithin(n, 0, n)
      const [h, d] = [logits.subarray(0, rows * n), room.subarray(0, rows * n)]
      const wide = widened(x, m, k, rows, k)
      const feeds = {
        x: f32(wide, rows, k),
        w: f32(w, n, k),
        ...(start === 'there' && { c: f32(h, rows, n) }),
      }
      const places = { h: f32(h, rows, n), d: f32(d, rows, n) }
      if (cap !== undefined || (blas && isLarge({ m, n, k }))) {
        await multiply(wide, w, h, { m: rows, n, k }, { start })
        if (cap !== undefined) await softCap(h, cap)
        await run('log softmax', () => logSoftmaxGraph, threads, { h: places.h }, { d: places.d })
      } else {
        const graph = () => headGraph(start === 'there')
        await run(`head ${start}`, graph, stableThreads(rows, n, threads), feeds, places)
      }
      const each = target.length / m
      for (let i = 0; i < target.length; i++) target[i] = h[Math.floor(i / each) * n + columns[i]!]!
      // log-softmax is logit - lse; the first column tells it, whatever the targets are.
      for (let row = 0; row < m; row++) lse[row] = h[row * n]! - d[row * n]!
    },
  }
}

/**
 * [rows, cols] as [toRows, toCols], the last row and column again and again. The library multiplies a single row
 * or column by kernels of their own, which sum in another order: it goes twice.
 */
function widened(a: Float32Array, rows: number, cols: number, toRows: number, toCols: number) {
  if (rows === toRows && cols === toCols) return a
  const wide = new Float32Array(toRows * toCols)
  for (let row = 0; row < toRows; row++) {
    const last = Math.min(row, rows - 1) * cols + cols
    wide.set(a.subarray(last - cols, last), row * toCols)
    if (cols < toCols) wide.fill(a[last - 1]!, row * toCols + cols, (row + 1) * toCols)
  }
  return wide
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
  integers: ['from', 'to'],
  outputs: { y: 2 },
}

const addBiasGraph: OnnxGraph = {
  nodes: [{ op: 'Add', inputs: ['y0', 'b'], outputs: ['y'] }],
  inputs: { y0: 3, b: 3 },
  outputs: { y: 3 },
}

const reluGraph: OnnxGraph = {
  nodes: [{ op: 'Relu', inputs: ['x'], outputs: ['y'] }],
  inputs: { x: 1 },
  outputs: { y: 1 },
}

/** Every result lies where x does. */
const softCapGraph = (cap: number): OnnxGraph => ({
  nodes: [
    constant('in', 1 / cap),
    constant('out', cap),
    { op: 'Mul', inputs: ['x', 'in'], outputs: ['s'] },
    { op: 'Tanh', inputs: ['s'], outputs: ['t'] },
    { op: 'Mul', inputs: ['t', 'out'], outputs: ['y'] },
  ],
  inputs: { x: 1 },
  outputs: { s: 1, t: 1, y: 1 },
})

const LOG_SOFTMAX: OnnxNode = {
  op: 'LogSoftmax',
  inputs: ['h'],
  outputs: ['d'],
  attributes: { axis: { int: -1 } },
}

const logSoftmaxGraph: OnnxGraph = {
  nodes: [LOG_SOFTMAX],
  inputs: { h: 2 },
  outputs: { d: 2 },
}

/** Logits h and their log-softmax d. */
const headGraph = (there: boolean): OnnxGraph => ({
  nodes: [gemmNode(there ? 2 : 0, 'h'), LOG_SOFTMAX],
  inputs: { x: 2, w: 2, ...(there && { c: 2 }) },
  outputs: { h: 2, d: 2 },
})
