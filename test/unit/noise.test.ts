// Noise: known answers, moments, independence, and the same bits in TypeScript, WebAssembly and the reference.
// (The WGSL twin is compared in webgpu-kernels.test.ts, where there is a device.)
// Alone: npx vitest run test/unit/noise.test.ts

import { describe, expect, it } from 'vitest'
import {
  DISTRIBUTIONS,
  NOISES,
  round16,
  stdOf,
  type Recipe,
} from '../../src/noise/distributions.ts'
import { applyTerms, noiseAt, probeVersion } from '../reference/noise.ts'
import { noiseKey, threefry2x32 } from '../../src/noise/threefry.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'

const hex = (words: number[]) => words.map((w) => w.toString(16).padStart(8, '0')).join(' ')

describe('Threefry2x32-20', () => {
  it('gives the published known answers', () => {
    expect(hex(threefry2x32(0, 0, 0, 0))).toBe('6b200159 99ba4efe')
    expect(hex(threefry2x32(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff))).toBe(
      '1cb996fc bb002be7',
    )
    expect(hex(threefry2x32(0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3))).toBe(
      'c4923a9c 483df7a0',
    )
  })

  it('keys differ in each of seed, step, name and role', () => {
    const keys = [
      noiseKey(0, 0, 'a', 'z'),
      noiseKey(1, 0, 'a', 'z'),
      noiseKey(2 ** 32, 0, 'a', 'z'),
      noiseKey(0, 1, 'a', 'z'),
      noiseKey(0, 0, 'b', 'z'),
      noiseKey(0, 0, 'a', 'order'),
    ]
    expect(new Set(keys.map((k) => `${k.k0}/${k.k1}`)).size).toBe(keys.length)
  })
})

// The words of key (1, 2) begin with 257edf33 8bb042e4: ones are counted, or read from the lowest on.
it.each([
  ['gaussian', 0, [4, -3, -1, -1, 1, -2, 1, -1]],
  ['rademacher', 0, signs('--++--++-----+--+------+-+-++-++')],
  ['rademacher', 32, signs('++-++---+-++++-+++++--+---+-+++-')],
  ['rademacher', 2 ** 32, signs('+-++++++-++------+-+-+-+--+--+-+')],
] as const)('%s noise from element %d has known answers', (noise, first, expected) => {
  const { at } = DISTRIBUTIONS[noise]
  expect(expected.map((_, i) => at({ k0: 1, k1: 2 }, first + i))).toEqual(expected)
})

function signs(text: string): number[] {
  return [...text].map((sign) => (sign === '+' ? 1 : -1))
}

describe('signs', () => {
  const key = noiseKey(7, 3, 'w', 'z')
  const WORDS = 20_000
  const z = Int8Array.from({ length: 32 * WORDS }, (_, i) => DISTRIBUTIONS.rademacher.at(key, i))

  it('are fair at every place of a word, and in every pair of places', () => {
    for (let a = 0; a < 32; a++) {
      for (let b = 0; b <= a; b++) {
        let sum = 0
        for (let at = 0; at < z.length; at += 32)
          sum += b === a ? z[at + a]! : z[at + a]! * z[at + b]!
        expect(Math.abs(sum), `places ${a} and ${b}`).toBeLessThan(5 * Math.sqrt(WORDS))
      }
    }
  })

  it('make every byte equally often', () => {
    const counts = new Float64Array(256)
    for (let at = 0; at < z.length; at += 8) {
      let byte = 0
      for (let bit = 0; bit < 8; bit++) byte += z[at + bit] === -1 ? 2 ** bit : 0
      counts[byte]!++
    }
    const mean = z.length / 8 / 256
    const chiSquare = counts.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0)
    // 255 degrees of freedom: five standard deviations about the mean.
    expect(Math.abs(chiSquare - 255)).toBeLessThan(5 * Math.sqrt(2 * 255))
  })
})

describe.each([
  ['gaussian', -1 / 16],
  ['rademacher', -2],
] as const)('%s noise', (noise, kurtosis) => {
  const { at } = DISTRIBUTIONS[noise]
  const key = noiseKey(7, 3, 'model.decoder.embed_tokens.weight', 'z')
  const n = 400_000
  const z = Float64Array.from({ length: n }, (_, i) => at(key, i) / stdOf(noise))
  const mean = (f: (v: number, i: number) => number) => z.reduce((s, v, i) => s + f(v, i), 0) / n

  it('has mean 0, variance 1, skewness 0 and its kurtosis', () => {
    // Five standard errors of each sample moment.
    expect(Math.abs(mean((v) => v))).toBeLessThan(5 / Math.sqrt(n))
    expect(Math.abs(mean((v) => v * v) - 1)).toBeLessThan(5 * Math.sqrt(2 / n))
    expect(Math.abs(mean((v) => v ** 3))).toBeLessThan(5 * Math.sqrt(15 / n))
    expect(Math.abs(mean((v) => v ** 4) - (3 + kurtosis))).toBeLessThan(5 * Math.sqrt(96 / n))
  })

  it('is what its definition says, at any element', () => {
    for (const first of [0, 61, 2 ** 31 - 7, 2 ** 32 - 33, 2 ** 33 + 5, 2 ** 40 - 100]) {
      for (let i = first; i < first + 200; i++) expect(at(key, i)).toBe(noiseAt(noise, key, i))
    }
  })

  it('is independent of its neighbours, of other steps and of other tensors', () => {
    const step = noiseKey(7, 4, 'model.decoder.embed_tokens.weight', 'z')
    const other = noiseKey(7, 3, 'model.decoder.embed_positions.weight', 'z')
    const bound = 5 / Math.sqrt(n)
    for (const lag of [1, 2, 3, 31, 32, 33, 64, 1024]) {
      expect(Math.abs(mean((v, i) => (i >= lag ? v * z[i - lag]! : 0)))).toBeLessThan(bound)
    }
    for (const k of [step, other]) {
      expect(Math.abs(mean((v, i) => (v * at(k, i)) / stdOf(noise)))).toBeLessThan(bound)
    }
  })

  it('times a scalar of 16 bits is exact in f32', () => {
    for (const x of [1e-3 / stdOf(noise), 3.7e-9, -0.123456789, 1 / 3, 2 ** -99]) {
      const scale = round16(x)
      expect(Math.abs(scale - x)).toBeLessThanOrEqual(Math.abs(x) * 2 ** -16)
      for (let k = -16; k <= 16; k++) expect(Math.fround(scale * k)).toBe(scale * k)
    }
    expect(round16(0)).toBe(0)
    expect(round16(1e-40)).toBe(0)
  })
})

describe.each(NOISES)('the WebAssembly twin of %s noise', (noise) => {
  const kernel = createNoiseKernel()
  const recipe: Recipe = {
    noise,
    terms: [
      { ...noiseKey(1, 0, 'w', 'z'), coefficient: round16(3e-4), decay: 1 },
      { ...noiseKey(1, 1, 'w', 'z'), coefficient: round16(-7e-5), decay: Math.fround(0.9999) },
    ],
    probe: noiseKey(1, 2, 'w', 'z'),
    scales: [round16(1e-3 / stdOf(noise)), -round16(1e-3 / stdOf(noise))],
  }

  it.each([
    [0, 1],
    [1, 1],
    [3, 17],
    [63, 66],
    [40, 16_384],
    [1000, 16_384],
    [12_345, 40_001],
    [2 ** 31 + 6, 999],
    [2 ** 32 + 1, 65],
  ])('has the same bits from element %d for %d elements', (first, n) => {
    const base = Float32Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i + first) * 0.02))
    const expected = base.slice()
    applyTerms(expected, first, recipe)
    const versions = [new Float32Array(n), new Float32Array(n)]
    const folded = new Float32Array(n)
    kernel.apply(new Uint8Array(base.buffer), 'F32', first, recipe, versions, folded)
    expect(folded).toEqual(expected)
    expect(versions[0]).toEqual(probeVersion(expected, first, recipe, 0))
    expect(versions[1]).toEqual(probeVersion(expected, first, recipe, 1))
  })

  it.each([0, -0])('a term of coefficient %d only decays, to the sign of a zero', (coefficient) => {
    const decays = [0.9, 1].map(Math.fround)
    const base = Float32Array.from({ length: 999 }, (_, i) => (i % 3 ? Math.sin(i) : -0))
    const expected = base.slice()
    const terms = decays.map((decay) => ({ ...noiseKey(1, 0, 'w', 'z'), coefficient, decay }))
    const decay = { noise, terms, scales: [0] }
    applyTerms(expected, 7, decay)
    const found = new Float32Array(999)
    kernel.apply(new Uint8Array(base.buffer), 'F32', 7, decay, [found])
    expect(new Uint32Array(found.buffer)).toEqual(new Uint32Array(expected.buffer))
  })
})

it('the WebAssembly twin widens every f16 and bf16 pattern exactly', () => {
  const halves = Uint16Array.from({ length: 65_536 }, (_, i) => i)
  const out = new Float32Array(65_536)
  const kernel = createNoiseKernel()
  const plain = { terms: [], scales: [0] }
  kernel.apply(new Uint8Array(halves.buffer), 'F16', 0, plain, [out])
  for (let h = 0; h < 65_536; h++) expect(Object.is(out[h], halfToFloat(h))).toBe(true)
  kernel.apply(new Uint8Array(halves.buffer), 'BF16', 0, plain, [out])
  const bits = new Uint32Array(out.buffer)
  for (let h = 0; h < 65_536; h++) expect(bits[h]).toBe((h << 16) >>> 0)
})

/** IEEE 754 binary16 by its definition. */
function halfToFloat(h: number): number {
  const sign = h & 0x8000 ? -1 : 1
  const exponent = (h >> 10) & 31
  const fraction = h & 1023
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
