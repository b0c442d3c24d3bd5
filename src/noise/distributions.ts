// What a random word means as noise, and the arithmetic that applies noise to a weight. This is the
// plain TypeScript form; noise.as.ts and the WGSL kernels do the same and must give the same bits.
//
// gaussian: popcount(word) - 16, the centred binomial B(32, 1/2): integers in [-16, 16], mean 0,
// variance 8, excess kurtosis -1/16. Its 1/sqrt(8) lives in the scalar beside it.

import { threefry2x32, type NoiseKey } from './threefry.ts'

/** Standard deviation of the raw integer noise; scalars are divided by it. */
export const NOISE_STD = Math.sqrt(8)

/** Raw noise of element `index` (safe integer) of the tensor that `key` belongs to. */
export function gaussianAt(key: NoiseKey, index: number): number {
  const pair = Math.floor(index / 2)
  const words = threefry2x32(key.k0, key.k1, pair >>> 0, Math.floor(pair / 2 ** 32))
  return popcount(words[index % 2]!) - 16
}

function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555)
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333)
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/**
 * `x` rounded to 16 significant bits (Veltkamp's split). Times an integer of magnitude <= 16 it is
 * exact in f32, so that w + scale*z rounds once, fused or not, on every device. Magnitudes that
 * would leave f32's normal range become 0.
 */
export function round16(x: number): number {
  if (Math.abs(x) < 2 ** -100) return 0
  const c = x * (2 ** 37 + 1)
  return c - (c - x)
}

/** One past update of a tensor: w <- w*decay + coefficient*z(key). Both scalars are exact in f32. */
export interface NoiseTerm extends NoiseKey {
  /** -lr*g/sqrt(8), rounded to 16 bits. */
  readonly coefficient: number
  /** 1 - lr*weight_decay as an f32; 1 for tensors that do not decay. */
  readonly decay: number
}

/**
 * How the weights of one tensor come about at one step. First the updates owed, in step order
 * (E = W; E = fl(fl(E*decay) + coefficient*z)), then one version per probe (W_p = fl(E + scale_p*z)).
 */
export interface Recipe {
  readonly terms: readonly NoiseTerm[]
  /** Absent for evaluation: every version is E. */
  readonly probe?: NoiseKey
  /** Where versions have different directions: the key of each, instead of `probe`. */
  readonly keys?: readonly NoiseKey[]
  /** One per probe, rounded to 16 bits: +eps/sqrt(8), -eps/sqrt(8). Length is the probe count P. */
  readonly scales: readonly number[]
}

/** The key of version p's noise. */
export const probeKey = (recipe: Recipe, p: number) => recipe.keys?.[p] ?? recipe.probe

/** Whether versions differ: else one stands for all. */
export const perturbs = (recipe: Recipe) =>
  recipe.scales.some((scale, p) => scale !== 0 && probeKey(recipe, p) !== undefined)

/** E after the recipe's terms, in place, for elements [first, first + w.length) of the tensor. */
export function applyTerms(w: Float32Array, first: number, terms: readonly NoiseTerm[]): void {
  for (const term of terms) {
    for (let i = 0; i < w.length; i++) {
      const z = gaussianAt(term, first + i)
      w[i] = Math.fround(Math.fround(w[i]! * term.decay) + term.coefficient * z)
    }
  }
}

/** The version of probe p: fl(E + scale_p*z), as a new array. */
export function probeVersion(e: Float32Array, first: number, recipe: Recipe, p: number) {
  const probe = probeKey(recipe, p)
  const scale = recipe.scales[p]!
  if (!probe || scale === 0) return e.slice()
  return e.map((value, i) => Math.fround(value + scale * gaussianAt(probe, first + i)))
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
