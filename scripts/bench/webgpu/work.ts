// What every system of the WebGPU bench is given and gives back: products and one OPT block, with
// the same values everywhere; the systems, and what is said between webgpu.ts and worker.ts.

/** y [rows, cols] = x [rows, depth] * w [depth, cols]. */
export interface GemmShape {
  readonly kind: 'gemm'
  readonly rows: number
  readonly depth: number
  readonly cols: number
}

/** One pre-norm OPT block, causal, without padding: h [batch*tokens, hidden] to the same shape. */
export interface BlockShape {
  readonly kind: 'block'
  readonly batch: number
  readonly tokens: number
  readonly hidden: number
  readonly ffn: number
  readonly heads: number
}

export type Shape = GemmShape | BlockShape

/** Values of a matrix [depth, cols] (as peers multiply) or of a vector. */
export interface Values {
  readonly rows: number
  readonly cols: number
  readonly data: Float32Array
}

/** Input x of a product or a block, then its weights and biases by name. */
export type Operands = Readonly<Record<string, Values>>

/** Work that is set up: everything is on the device and stays there. */
export interface Work {
  /** Does it once and waits until the device is done; the result stays on the device. */
  run(): Promise<void>
  /** Does it once and fetches the result. */
  output(): Promise<Float32Array>
}

export interface System {
  readonly version: string
  /** Sets up work; what the work before held may go. */
  prepare(shape: Shape, operands: Operands): Promise<Work>
  close(): Promise<void>
}

/** Opens a system on the adapter of this name. */
export type Open = (adapter: string) => Promise<System>

/** What the parent asks; every message is answered by one Answer. */
export type Request =
  | { readonly do: 'prepare'; readonly shape: Shape }
  | { readonly do: 'run'; readonly times: number }
  | { readonly do: 'close' }

export interface Answer {
  readonly error?: string
  readonly version?: string
  /** Time of each run, in ms. */
  readonly ms?: readonly number[]
  /** Every 997th value of the result. */
  readonly sample?: readonly number[]
  readonly rssBytes?: number
}

/** Where each system's `open` is. */
export const SYSTEMS = {
  zo2: './ours.ts',
  'tfjs-webgpu': './tfjs.mjs',
  'jax-js': './jax.mjs',
  'onnxruntime-node webgpu': './ort.ts',
} as const
export type SystemName = keyof typeof SYSTEMS

/** The matrices of a block, [in, out], in the order of their use. */
export const blockMatrices = ({ hidden: C, ffn: F }: BlockShape) =>
  ({ q: [C, C], k: [C, C], v: [C, C], out: [C, C], fc1: [C, F], fc2: [F, C] }) as const

export const flopsOf = (shape: Shape) => {
  if (shape.kind === 'gemm') return 2 * shape.rows * shape.depth * shape.cols
  const { batch: B, tokens: T, hidden: C } = shape
  const products = Object.values(blockMatrices(shape)).reduce((sum, [m, n]) => sum + m * n, 0)
  // Causal attention: half of T x T scores, and half of their product with the values.
  return 2 * B * T * products + 2 * B * T * T * C
}

/** Operands of a shape: the same in every process. */
export function operandsOf(shape: Shape): Operands {
  let seed = 0
  const made = (rows: number, cols: number, scale: number, shift = 0): Values => ({
    rows,
    cols,
    data: uniform(rows * cols, ++seed, scale, shift),
  })
  if (shape.kind === 'gemm') {
    const { rows, depth, cols } = shape
    return { x: made(rows, depth, 1), w: made(depth, cols, 0.05) }
  }
  const { hidden } = shape
  const matrices = Object.entries(blockMatrices(shape)).flatMap(([name, [rows, cols]]) => [
    [name, made(rows, cols, 0.05)],
    [`${name}_bias`, made(1, cols, 0.1)],
  ])
  const norms = ['norm1', 'norm2'].flatMap((name) => [
    [name, made(1, hidden, 0.2, 1)],
    [`${name}_bias`, made(1, hidden, 0.1)],
  ])
  const x = made(shape.batch * shape.tokens, hidden, 1)
  return Object.fromEntries([['x', x], ...matrices, ...norms]) as Operands
}

/** Values in shift +- scale by xorshift32 (Marsaglia, 2003). */
function uniform(count: number, seed: number, scale: number, shift: number): Float32Array {
  const values = new Float32Array(count)
  let state = (seed * 0x9e3779b9) >>> 0
  for (let i = 0; i < count; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    values[i] = shift + scale * (state / 2 ** 31)
  }
  return values
}
