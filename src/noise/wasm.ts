// Loads noise.wasm and feeds it weights in chunks that stay in the core's cache. Used on the main
// thread for the few rows and vectors gathered there, and in worker threads for whole slabs.
// Same bits as distributions.ts.

import { type DType, DTYPE_BYTES } from '../util/dtypes.ts'
import { gaussianAt, probeKey, type NoiseTerm, type Recipe } from './distributions.ts'
import { eachRun, type Change } from './factors.ts'
import { noiseModule } from './node.ts'
import type { NoiseKey } from './threefry.ts'

interface Exports {
  memory: WebAssembly.Memory
  widen(src: number, dtype: number, n: number, out: number): void
  accumulate(
    e: number,
    n: number,
    pair: number,
    k0: number,
    k1: number,
    coefficient: number,
    decay: number,
  ): void
  probePair(
    e: number,
    n: number,
    pair: number,
    k0: number,
    k1: number,
    scale: number,
    plus: number,
    minus: number,
  ): void
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
const PAD = 32 // an odd first element, and rounding up to thirty-two, stay inside a buffer
const BUFFER_BYTES = (CHUNK + PAD) * 4
const MINUS_ZERO = 0x80000000 | 0
const DTYPE_CODE: Readonly<Record<DType, number>> = { F32: 0, F16: 1, BF16: 2 }

/** A kernel with its own linear memory (about 300 KB). Not shared between threads. */
export function createNoiseKernel(): NoiseKernel {
  const instance = new WebAssembly.Instance(new WebAssembly.Module(noiseModule()), {
    env: { abort: () => {} },
  })
  const kernel = instance.exports as unknown as Exports
  const base = kernel.memory.buffer.byteLength
  kernel.memory.grow(Math.ceil((BUFFER_BYTES * 4) / 65536))
  const [src, e, plus, minus] = [0, 1, 2, 3].map((i) => base + i * BUFFER_BYTES) as [
    number,
    number,
    number,
    number,
  ]
  // Right factors are loaded behind the buffers; growing detaches the views.
  const factorsAt = base + BUFFER_BYTES * 4
  let bytes = new Uint8Array(kernel.memory.buffer)
  let floats = new Float32Array(kernel.memory.buffer)
  const room = (byteLength: number) => {
    const missing = factorsAt + byteLength - kernel.memory.buffer.byteLength
    if (missing <= 0) return
    kernel.memory.grow(Math.ceil(missing / 65536))
    bytes = new Uint8Array(kernel.memory.buffer)
    floats = new Float32Array(kernel.memory.buffer)
  }

  /** One chunk: count elements from element index `at`; results are left in plus and minus. */
  const chunk = (raw: Uint8Array, dtype: DType, at: number, count: number, recipe: Recipe) => {
    const lead = at % 2
    const n = Math.ceil((lead + count) / 32) * 32
    const pair = (at - lead) / 2
    bytes.set(raw, src)
    kernel.widen(src, DTYPE_CODE[dtype], count, e + lead * 4)
    for (const t of recipe.terms) {
      if (t.coefficient === 0) decay(t, at, n, lead)
      else kernel.accumulate(e, n, pair, t.k0, t.k1, t.coefficient, t.decay)
    }
    return { lead, n, pair }
  }

  /** A term without noise draws none, but where -0 meets the sign of a zero that it would have added. */
  const decay = (term: NoiseTerm, at: number, n: number, lead: number) => {
    kernel.scale(e, n, term.decay)
    const bits = new Int32Array(kernel.memory.buffer, e + lead * 4, n - lead)
    for (let i = bits.indexOf(MINUS_ZERO); i >= 0; i = bits.indexOf(MINUS_ZERO, i + 1)) {
      floats[e / 4 + lead + i]! += term.coefficient * gaussianAt(term, at + i)
    }
  }

  /** One chunk of a factored change, left in e: elements [at, at + count). */
  const factored = (
    at: number,
    count: number,
    cols: number,
    rights: readonly number[],
    c: Factored,
  ) => {
    if (c.decay !== 1) kernel.scale(e, Math.ceil(count / 4) * 4, c.decay)
    c.terms.forEach((term, i) => {
      for (let row = Math.floor(at / cols); row * cols < at + count; row++) {
        eachRun(term, row, cols, (start, length, from, scale) => {
          const begin = Math.max(at, row * cols + start)
          const n = Math.min(at + count, row * cols + start + length) - begin
          const skipped = begin - row * cols - start
          if (n > 0) kernel.axpy(e + (begin - at) * 4, rights[i]! + (from + skipped) * 4, n, scale)
        })
      }
    })
  }

  const self: NoiseKernel = {
    change(raw, dtype, first, cols, change, out) {
      if (change.kind === 'dense') {
        self.apply(raw, dtype, first, { terms: change.terms, scales: [] }, [], out)
        return
      }
      room(change.terms.reduce((sum, { right }) => sum + right.byteLength, 0))
      let next = factorsAt
      const rights = change.terms.map(({ right }) => {
        floats.set(right, next / 4)
        next += right.byteLength
        return next - right.byteLength
      })
      const size = DTYPE_BYTES[dtype]
      for (let i = 0; i < out.length; i += CHUNK) {
        const count = Math.min(CHUNK, out.length - i)
        bytes.set(raw.subarray(i * size, (i + count) * size), src)
        kernel.widen(src, DTYPE_CODE[dtype], count, e)
        factored(first + i, count, cols, rights, change)
        out.set(floats.subarray(e / 4, e / 4 + count), i)
      }
    },
    apply(raw, dtype, first, recipe, versions, folded) {
      const n = versions[0]?.length ?? folded?.length ?? 0
      if (first + n > 2 ** 33) throw new RangeError('noise is defined for the first 2^33 elements')
      const size = DTYPE_BYTES[dtype]
      const { scales } = recipe
      for (let i = 0; i < n; i += CHUNK) {
        const count = Math.min(CHUNK, n - i)
        const part = raw.subarray(i * size, (i + count) * size)
        const at = chunk(part, dtype, first + i, count, recipe)
        const take = (from: number, to: Float32Array) => {
          const start = from / 4 + at.lead
          to.set(floats.subarray(start, start + count), i)
        }
        if (folded) take(e, folded)
        for (let p = 0; p < versions.length; p++) {
          const scale = scales[p]!
          const probe = probeKey(recipe, p)
          if (!probe || scale === 0) {
            take(e, versions[p]!)
          } else {
            kernel.probePair(e, at.n, at.pair, probe.k0, probe.k1, scale, plus, minus)
            take(plus, versions[p]!)
            const mirrored = scales[p + 1] === -scale && sameKey(probeKey(recipe, p + 1), probe)
            if (p + 1 < versions.length && mirrored) take(minus, versions[++p]!)
          }
        }
      }
    },
    roundHalf(values, first, key, out) {
      for (let i = 0; i < values.length; i += CHUNK) {
        const count = Math.min(CHUNK, values.length - i)
        const lead = (first + i) % 2
        const n = Math.ceil((lead + count) / 32) * 32
        // What lies around the chunk is rounded too, and must not pass for a weight beyond range.
        floats.fill(0, e / 4, e / 4 + n)
        floats.set(values.subarray(i, i + count), e / 4 + lead)
        const pair = (first + i - lead) / 2
        if (kernel.roundHalf(e, n, pair, key.k0, key.k1, plus)) {
          throw new RangeError('a weight is beyond the range of float16')
        }
        out.set(new Uint16Array(kernel.memory.buffer, plus + lead * 2, count), i)
      }
    },
  }
  return self
}

type Factored = Extract<Change, { kind: 'factored' }>

const sameKey = (a: NoiseKey | undefined, b: NoiseKey) => a?.k0 === b.k0 && a.k1 === b.k1
