// Noise by its definition, and the arithmetic of noise and factors on weights in plain f32 loops, for tests
// only: the bits that src/noise/noise.as.ts and the WGSL kernels must give. Shares Threefry alone with
// src/noise, whose known answers are in noise.test.ts.

import { probeKey, type Noise, type Recipe } from '../../src/noise/distributions.ts'
import { eachRun, type FactorTerm } from '../../src/noise/factors.ts'
import { threefry2x32, type NoiseKey } from '../../src/noise/threefry.ts'

/** Digit `bit` of word `word` of a tensor's noise; 0 is the one of value 1. */
function digit({ k0, k1 }: NoiseKey, word: number, bit: number): number {
  const counter = Math.floor(word / 2)
  const both = threefry2x32(k0, k1, counter % 2 ** 32, Math.floor(counter / 2 ** 32))
  return Math.floor(both[word % 2]! / 2 ** bit) % 2
}

/** Of raw noise. */
export const VARIANCE: Readonly<Record<Noise, number>> = { gaussian: 8, rademacher: 1 }

/** Raw noise of element `index`. */
export function noiseAt(noise: Noise, key: NoiseKey, index: number): number {
  if (noise === 'rademacher') return digit(key, Math.floor(index / 32), index % 32) === 1 ? -1 : 1
  const [word0, word1] = threefry2x32(
    key.k0,
    key.k1,
    Math.floor(index / 2) % 2 ** 32,
    Math.floor(index / 2 ** 33),
  )
  let ones = 0
  for (let rest = index % 2 === 0 ? word0 : word1; rest !== 0; rest >>>= 1) ones += rest & 1
  return ones - 16
}

/** z of element `index`, of variance 1. */
export const unitAt = (noise: Noise, key: NoiseKey, index: number) =>
  noiseAt(noise, key, index) / Math.sqrt(VARIANCE[noise])

/** E after the recipe's terms, in place, for elements [first, first + w.length) of the tensor. */
export function applyTerms(w: Float32Array, first: number, recipe: Recipe): void {
  for (const term of recipe.terms) {
    for (let i = 0; i < w.length; i++) {
      const z = noiseAt(recipe.noise!, term, first + i)
      w[i] = Math.fround(Math.fround(w[i]! * term.decay) + term.coefficient * z)
    }
  }
}

/** The version of probe p: fl(E + scale_p*z), as a new array. */
export function probeVersion(e: Float32Array, first: number, recipe: Recipe, p: number) {
  const probe = probeKey(recipe, p)
  const scale = recipe.scales[p]!
  if (!probe || scale === 0) return e.slice()
  return e.map((value, i) => Math.fround(value + scale * noiseAt(recipe.noise!, probe, first + i)))
}

/** Values of `w` as f16, in f32: rounded up with the chance that 13 bits of element `first + i`'s word decide. */
export function roundHalf(w: Float32Array, first: number, key: NoiseKey): Float32Array {
  return w.map((value, i) => {
    const pair = Math.floor((first + i) / 2)
    const word = threefry2x32(key.k0, key.k1, pair >>> 0, 0)[(first + i) % 2]!
    const magnitude = Math.abs(value)
    // The distance of f16's neighbours: a power of two, 2^-24 at least.
    const exponent = Math.max(-14, Math.floor(Math.log2(Math.max(magnitude, 2 ** -126))))
    const grain = 2 ** (exponent - 10)
    const steps = Math.floor(Math.fround(magnitude / grain + (word & 0x1fff) / 8192))
    return Math.sign(value) * steps * grain
  })
}

/** Applies a factored change in place to elements [first, first + w.length) of a matrix. */
export function applyFactors(
  w: Float32Array,
  first: number,
  cols: number,
  { decay, terms }: { decay: number; terms: readonly FactorTerm[] },
): void {
  for (let i = 0; i < w.length; i++) w[i] = Math.fround(w[i]! * decay)
  for (const term of terms) {
    const end = first + w.length
    for (let row = Math.floor(first / cols); row * cols < end; row++) {
      eachRun(term, row, cols, (at, count, from, scale) => {
        for (let i = 0; i < count; i++) {
          const k = row * cols + at + i - first
          if (k < 0 || k >= w.length) continue
          w[k] = Math.fround(w[k]! + Math.fround(term.right[from + i]! * scale))
        }
      })
    }
  }
}
