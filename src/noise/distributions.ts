// What a random word means as noise, and the recipe that makes a tensor's weights of it. noise.as.ts
// and the WGSL kernels apply recipes to weights; test/reference/noise.ts says plainly which bits they
// must give.
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
 * How the weights of one tensor are made at one step. First the updates owed, in step order
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
