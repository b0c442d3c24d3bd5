// What random words mean as noise, and the recipe that makes a tensor's weights of it. noise.as.ts
// and the WGSL kernels apply recipes to weights; test/reference/noise.ts says plainly which bits they
// must give. The words of a tensor are numbered: word w is number w % 2 of the two that Threefry
// gives for counter floor(w / 2).
//
// gaussian: element i is popcount(word i) - 16, the centred binomial B(32, 1/2): integers in
// [-16, 16], mean 0, variance 8, excess kurtosis -1/16. Its 1/sqrt(8) lives in the scalar beside it.
// rademacher: element i is -1 where bit i % 32 of word floor(i / 32) is set (bit 0 has the value 1),
// else +1: mean 0, variance 1, excess kurtosis -2.

import { threefry2x32, type NoiseKey } from './threefry.ts'

export const NOISES = ['gaussian', 'rademacher'] as const
export type Noise = (typeof NOISES)[number]

interface Distribution {
  /** Of the raw integer noise. */
  readonly variance: number
  /** Elements that one counter makes; a power of two. */
  readonly perCounter: number
  /** Raw noise of element `index` (safe integer) of the tensor that `key` belongs to. */
  at(key: NoiseKey, index: number): number
}

export const DISTRIBUTIONS: Readonly<Record<Noise, Distribution>> = {
  gaussian: {
    variance: 8,
    perCounter: 2,
    at: (key, index) => popcount(wordAt(key, index)) - 16,
  },
  rademacher: {
    variance: 1,
    perCounter: 64,
    at: (key, index) => 1 - 2 * ((wordAt(key, Math.floor(index / 32)) >>> (index % 32)) & 1),
  },
}

/** Standard deviation of raw noise; scalars are divided by it. */
export const stdOf = (noise: Noise) => Math.sqrt(DISTRIBUTIONS[noise].variance)

function wordAt({ k0, k1 }: NoiseKey, word: number): number {
  const counter = Math.floor(word / 2)
  return threefry2x32(k0, k1, counter >>> 0, Math.floor(counter / 2 ** 32))[word % 2]!
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
  /** -lr*g/std, rounded to 16 bits. */
  readonly coefficient: number
  /** 1 - lr*weight_decay as an f32; 1 for tensors that do not decay. */
  readonly decay: number
}

/**
 * How the weights of one tensor are made at one step. First the updates owed, in step order
 * (E = W; E = fl(fl(E*decay) + coefficient*z)), then one version per probe (W_p = fl(E + scale_p*z)).
 */
export type Recipe = PlainRecipe | NoisyRecipe

interface NoisyRecipe {
  /** Of all its terms and probes. */
  readonly noise: Noise
  readonly terms: readonly NoiseTerm[]
  /** Absent for evaluation: every version is E. */
  readonly probe?: NoiseKey
  /** Where versions have different directions: the key of each, instead of `probe`. */
  readonly keys?: readonly NoiseKey[]
  /** One per probe, rounded to 16 bits: +eps/std, -eps/std. Length is the probe count P. */
  readonly scales: readonly number[]
}

/** Weights as they are. */
interface PlainRecipe {
  readonly noise?: undefined
  readonly terms: readonly never[]
  readonly probe?: undefined
  readonly keys?: undefined
  readonly scales: readonly number[]
}

/** What a kernel takes for the recipe's noise: of one that draws none any will do. */
export const noiseOf = (recipe: Recipe): Noise => recipe.noise ?? 'gaussian'

/** The key of version p's noise. */
export const probeKey = (recipe: Recipe, p: number) => recipe.keys?.[p] ?? recipe.probe

/** Whether versions differ: else one stands for all. */
export const perturbs = (recipe: Recipe) =>
  recipe.scales.some((scale, p) => scale !== 0 && probeKey(recipe, p) !== undefined)
