// Noise: known answers, moments, independence, and the same bits in TypeScript and WebAssembly.
// (The WGSL twin is compared in device.test.ts, where there is a device.)
// Alone: npx vitest run test/unit/noise.test.ts

import { describe, expect, it } from 'vitest'
import { gaussianAt, NOISE_STD, round16, type Recipe } from '../../src/noise/distributions.ts'
import { applyTerms, probeVersion } from '../reference/noise.ts'
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

describe('the centred binomial', () => {
  const key = noiseKey(7, 3, 'model.decoder.embed_tokens.weight', 'z')
  const n = 400_000
  const z = Float64Array.from({ length: n }, (_, i) => gaussianAt(key, i) / NOISE_STD)
  const mean = (f: (v: number, i: number) => number) => z.reduce((s, v, i) => s + f(v, i), 0) / n

  it('has mean 0, variance 1, skewness 0 and excess kurtosis -1/16', () => {
    // Five standard errors of each sample moment.
    expect(Math.abs(mean((v) => v))).toBeLessThan(5 / Math.sqrt(n))
    expect(Math.abs(mean((v) => v * v) - 1)).toBeLessThan(5 * Math.sqrt(2 / n))
    expect(Math.abs(mean((v) => v ** 3))).toBeLessThan(5 * Math.sqrt(15 / n))
    expect(Math.abs(mean((v) => v ** 4) - (3 - 1 / 16))).toBeLessThan(5 * Math.sqrt(96 / n))
  })

  it('is independent of its neighbours, of other steps and of other tensors', () => {
    const step = noiseKey(7, 4, 'model.decoder.embed_tokens.weight', 'z')
    const other = noiseKey(7, 3, 'model.decoder.embed_positions.weight', 'z')
    const bound = 5 / Math.sqrt(n)
    for (const lag of [1, 2, 3, 64]) {
      expect(Math.abs(mean((v, i) => (i >= lag ? v * z[i - lag]! : 0)))).toBeLessThan(bound)
    }
    for (const k of [step, other]) {
      expect(Math.abs(mean((v, i) => (v * gaussianAt(k, i)) / NOISE_STD))).toBeLessThan(bound)
    }
  })

  it('times a scalar of 16 bits is exact in f32', () => {
    for (const x of [1e-3 / NOISE_STD, 3.7e-9, -0.123456789, 1 / 3, 2 ** -99]) {
      const scale = round16(x)
      expect(Math.abs(scale - x)).toBeLessThanOrEqual(Math.abs(x) * 2 ** -16)
      for (let k = -16; k <= 16; k++) expect(Math.fround(scale * k)).toBe(scale * k)
    }
    expect(round16(0)).toBe(0)
    expect(round16(1e-40)).toBe(0)
  })
})

describe('the WebAssembly twin', () => {
  const kernel = createNoiseKernel()
  const recipe: Recipe = {
    terms: [
      { ...noiseKey(1, 0, 'w', 'z'), coefficient: round16(3e-4), decay: 1 },
      { ...noiseKey(1, 1, 'w', 'z'), coefficient: round16(-7e-5), decay: Math.fround(0.9999) },
    ],
    probe: noiseKey(1, 2, 'w', 'z'),
    scales: [round16(1e-3 / NOISE_STD), -round16(1e-3 / NOISE_STD)],
  }

  it.each([
    [0, 1],
    [1, 1],
    [3, 17],
    [1000, 16_384],
    [12_345, 40_001],
    [2 ** 31 + 6, 999],
    [2 ** 32 + 1, 65],
  ])('has the same bits from element %d for %d elements', (first, n) => {
    const base = Float32Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i + first) * 0.02))
    const expected = base.slice()
    applyTerms(expected, first, recipe.terms)
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
    applyTerms(expected, 7, terms)
    const found = new Float32Array(999)
    kernel.apply(new Uint8Array(base.buffer), 'F32', 7, { terms, scales: [0] }, [found])
    expect(new Uint32Array(found.buffer)).toEqual(new Uint32Array(expected.buffer))
  })

  it('widens every f16 and bf16 pattern exactly', () => {
    const halves = Uint16Array.from({ length: 65_536 }, (_, i) => i)
    const out = new Float32Array(65_536)
    const plain = { terms: [], scales: [0] }
    kernel.apply(new Uint8Array(halves.buffer), 'F16', 0, plain, [out])
    for (let h = 0; h < 65_536; h++) expect(Object.is(out[h], halfToFloat(h))).toBe(true)
    kernel.apply(new Uint8Array(halves.buffer), 'BF16', 0, plain, [out])
    const bits = new Uint32Array(out.buffer)
    for (let h = 0; h < 65_536; h++) expect(bits[h]).toBe((h << 16) >>> 0)
  })
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
