// Loads noise.wasm and feeds it weights in chunks that stay in the core's cache. Used on the main
// thread for the few rows and vectors gathered there, and in worker threads for whole slabs.
// Same bits as test/reference/noise.ts.

import { type DType, DTYPE_BYTES } from '../util/dtypes.ts'
import {
  DISTRIBUTIONS,
  noiseOf,
  probeKey,
  type Noise,
  type NoiseTerm,
  type Recipe,
} from './distributions.ts'
import { eachRun, type Change, type FactorTerm } from './factors.ts'
import { noiseModule } from './node.ts'
import type { NoiseKey } from './threefry.ts'

type Accumulate = (
  e: number,
  n: number,
  counter: number,
  k0: number,
  k1: number,
  coefficient: number,
  decay: number,
) => void
type ProbePair = (
  e: number,
  n: number,
  counter: number,
  k0: number,
  k1: number,
  scale: number,
  plus: number,
  minus: number,
) => void

interface Exports {
  memory: WebAssembly.Memory
  widen(src: number, dtype: number, n: number, out: number): void
  accumulate: Accumulate
  accumulateSigns: Accumulate
  probePair: ProbePair
  probePairSigns: ProbePair
  scale(e: number, n: number, s: number): void
  axpy(e: number, v: number, n: number, s: number): void
  roundHalf(e: number, n: number, pair: number, k0: number, k1: number, out: number): number
}

export interface NoiseKernel {
  /**
   * Weights [first, first + n) of one tensor under a recipe. `raw` holds n elements of `dtype`,
   * little endian; `versions` has one array of n f32 for each of the recipe's scales; `folded`, if
   * given, receives E (the weights after all terms, without the probe).
   */
  apply(
    raw: Uint8Array,
    dtype: DType,
    first: number,
    recipe: Recipe,
    versions: readonly Float32Array[],
    folded?: Float32Array,
  ): void
  /** Elements [first, first + out.length) of a matrix of `cols` columns after `change`, as f32. */
  change(
    raw: Uint8Array,
    dtype: DType,
    first: number,
    cols: number,
    change: Change,
    out: Float32Array,
  ): void
  /** Elements [first, first + values.length) of a tensor as f16, rounded stochastically by `key`. RangeError beyond f16's. */
  roundHalf(values: Float32Array, first: number, key: NoiseKey, out: Uint16Array): void
}

const CHUNK = 16_384
const PAD = 64 // what a counter makes before the first element, and rounding up, stay inside a buffer
const BUFFER_BYTES = (CHUNK + PAD) * 4
const MINUS_ZERO = 0x80000000 | 0
const DTYPE_CODE: Readonly<Record<DType, number>> = { F32: 0, F16: 1, BF16: 2 }

/** A kernel with its own linear memory (about 300 KB). Not shared between threads. */
export function createNoiseKernel(): NoiseKernel {
  const c = createCore()
  const kernel: NoiseKernel = {
    apply: (raw, dtype, first, recipe, versions, folded) =>
      applyRecipe(c, raw, dtype, first, recipe, versions, folded),
    change(raw, dtype, first, cols, change, out) {
      if (change.kind === 'factored') applyFactors(c, raw, dtype, first, cols, change, out)
      else kernel.apply(raw, dtype, first, { ...change, scales: [] }, [], out)
    },
    roundHalf: (values, first, key, out) => roundToHalf(c, values, first, key, out),
  }
  return kernel
}

/** The WebAssembly instance, its buffers of one chunk each, and views of its memory. */
interface Core {
  readonly exports: Exports
  /** What draws each distribution. */
  readonly draws: Readonly<Record<Noise, { accumulate: Accumulate; probePair: ProbePair }>>
  /** Addresses: weights as they are in the file, as f32, and the versions of both signs. */
  readonly src: number
  readonly e: number
  readonly plus: number
  readonly minus: number
  /** Right factors are loaded behind the buffers. */
  readonly factorsAt: number
  bytes: Uint8Array
  floats: Float32Array
}

function createCore(): Core {
  const instance = new WebAssembly.Instance(new WebAssembly.Module(noiseModule()), {
    env: { abort: () => {} },
  })
  const exports = instance.exports as unknown as Exports
  const src = exports.memory.buffer.byteLength
  exports.memory.grow(Math.ceil((BUFFER_BYTES * 4) / 65536))
  const { accumulate, accumulateSigns, probePair, probePairSigns } = exports
  return {
    exports,
    draws: {
      gaussian: { accumulate, probePair },
      rademacher: { accumulate: accumulateSigns, probePair: probePairSigns },
    },
    src,
    e: src + BUFFER_BYTES,
    plus: src + 2 * BUFFER_BYTES,
    minus: src + 3 * BUFFER_BYTES,
    factorsAt: src + 4 * BUFFER_BYTES,
    bytes: new Uint8Array(exports.memory.buffer),
    floats: new Float32Array(exports.memory.buffer),
  }
}

/** Where a chunk lies in the buffers: `lead` elements in, where `counter` begins, up to `n`. */
interface ChunkPlace {
  readonly lead: number
  readonly n: number
  readonly counter: number
}

/** Of `count` elements from element `at` of the tensor, of which a counter makes `perCounter`. */
function placeOf(at: number, count: number, perCounter: number): ChunkPlace {
  const lead = at % perCounter
  const step = Math.max(32, perCounter)
  return { lead, n: Math.ceil((lead + count) / step) * step, counter: (at - lead) / perCounter }
}

function applyRecipe(
  c: Core,
  raw: Uint8Array,
  dtype: DType,
  first: number,
  recipe: Recipe,
  versions: readonly Float32Array[],
  folded?: Float32Array,
): void {
  const length = versions[0]?.length ?? folded?.length ?? 0
  if (first + length > 2 ** 33) throw new RangeError('noise is defined for the first 2^33 elements')
  const size = DTYPE_BYTES[dtype]
  const noise = noiseOf(recipe)
  for (let i = 0; i < length; i += CHUNK) {
    const count = Math.min(CHUNK, length - i)
    c.bytes.set(raw.subarray(i * size, (i + count) * size), c.src)
    const place = placeOf(first + i, count, DISTRIBUTIONS[noise].perCounter)
    c.exports.widen(c.src, DTYPE_CODE[dtype], count, c.e + place.lead * 4)
    for (const term of recipe.terms) applyTerm(c, noise, term, first + i, place)
    const take = (from: number, to: Float32Array) => {
      const start = from / 4 + place.lead
      to.set(c.floats.subarray(start, start + count), i)
    }
    if (folded) take(c.e, folded)
    takeVersions(c, recipe, place, versions, take)
  }
}

/** A past update of the chunk in e, which begins at element `at`. */
function applyTerm(c: Core, noise: Noise, term: NoiseTerm, at: number, place: ChunkPlace): void {
  const { k0, k1, coefficient, decay } = term
  const { lead, n, counter } = place
  if (coefficient !== 0) {
    c.draws[noise].accumulate(c.e, n, counter, k0, k1, coefficient, decay)
    return
  }
  // A term without noise draws none, but where -0 meets the sign of a zero that it would have added.
  c.exports.scale(c.e, n, decay)
  const bits = new Int32Array(c.exports.memory.buffer, c.e + lead * 4, n - lead)
  for (let i = bits.indexOf(MINUS_ZERO); i >= 0; i = bits.indexOf(MINUS_ZERO, i + 1)) {
    c.floats[c.e / 4 + lead + i]! += coefficient * DISTRIBUTIONS[noise].at(term, at + i)
  }
}

/** The probes' versions of the chunk in e; two neighbours of opposite scales are made at once. */
function takeVersions(
  c: Core,
  recipe: Recipe,
  { n, counter }: ChunkPlace,
  versions: readonly Float32Array[],
  take: (from: number, to: Float32Array) => void,
): void {
  const { scales } = recipe
  const { probePair } = c.draws[noiseOf(recipe)]
  for (let p = 0; p < versions.length; p++) {
    const scale = scales[p]!
    const probe = probeKey(recipe, p)
    if (!probe || scale === 0) {
      take(c.e, versions[p]!)
      continue
    }
    probePair(c.e, n, counter, probe.k0, probe.k1, scale, c.plus, c.minus)
    take(c.plus, versions[p]!)
    const mirrored = scales[p + 1] === -scale && sameKey(probeKey(recipe, p + 1), probe)
    if (p + 1 < versions.length && mirrored) take(c.minus, versions[++p]!)
  }
}

const sameKey = (a: NoiseKey | undefined, b: NoiseKey) => a?.k0 === b.k0 && a.k1 === b.k1

type Factored = Extract<Change, { kind: 'factored' }>

function applyFactors(
  c: Core,
  raw: Uint8Array,
  dtype: DType,
  first: number,
  cols: number,
  change: Factored,
  out: Float32Array,
): void {
  const rights = loadRights(c, change)
  const size = DTYPE_BYTES[dtype]
  for (let i = 0; i < out.length; i += CHUNK) {
    const count = Math.min(CHUNK, out.length - i)
    c.bytes.set(raw.subarray(i * size, (i + count) * size), c.src)
    c.exports.widen(c.src, DTYPE_CODE[dtype], count, c.e)
    if (change.decay !== 1) c.exports.scale(c.e, Math.ceil(count / 4) * 4, change.decay)
    change.terms.forEach((term, t) => addTerm(c, term, rights[t]!, cols, first + i, count))
    out.set(c.floats.subarray(c.e / 4, c.e / 4 + count), i)
  }
}

/** Copies the terms' right factors into the kernel's memory; returns their addresses. */
function loadRights(c: Core, { terms }: Factored): number[] {
  const { memory } = c.exports
  const neededBytes = terms.reduce((sum, { right }) => sum + right.byteLength, c.factorsAt)
  const missingBytes = neededBytes - memory.buffer.byteLength
  if (missingBytes > 0) {
    memory.grow(Math.ceil(missingBytes / 65536))
    // Growing detaches the views.
    c.bytes = new Uint8Array(memory.buffer)
    c.floats = new Float32Array(memory.buffer)
  }
  let next = c.factorsAt
  return terms.map(({ right }) => {
    c.floats.set(right, next / 4)
    next += right.byteLength
    return next - right.byteLength
  })
}

/** Adds a factored term to the chunk in e: elements [at, at + count) of a matrix of `cols` columns. */
function addTerm(
  c: Core,
  term: FactorTerm,
  right: number,
  cols: number,
  at: number,
  count: number,
): void {
  for (let row = Math.floor(at / cols); row * cols < at + count; row++) {
    eachRun(term, row, cols, (start, length, from, scale) => {
      const begin = Math.max(at, row * cols + start)
      const n = Math.min(at + count, row * cols + start + length) - begin
      const skipped = begin - row * cols - start
      if (n > 0) c.exports.axpy(c.e + (begin - at) * 4, right + (from + skipped) * 4, n, scale)
    })
  }
}

function roundToHalf(
  c: Core,
  values: Float32Array,
  first: number,
  key: NoiseKey,
  out: Uint16Array,
): void {
  for (let i = 0; i < values.length; i += CHUNK) {
    const count = Math.min(CHUNK, values.length - i)
    const { lead, n, counter } = placeOf(first + i, count, 2)
    // What lies around the chunk is rounded too, and must not pass for a weight beyond range.
    c.floats.fill(0, c.e / 4, c.e / 4 + n)
    c.floats.set(values.subarray(i, i + count), c.e / 4 + lead)
    if (c.exports.roundHalf(c.e, n, counter, key.k0, key.k1, c.plus)) {
      throw new RangeError('a weight is beyond the range of float16')
    }
    out.set(new Uint16Array(c.exports.memory.buffer, c.plus + lead * 2, count), i)
  }
}
