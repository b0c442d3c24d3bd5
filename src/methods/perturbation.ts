// The algebra of dense directions: theta_t = theta_0 + Delta_t as a list of (step, coefficient),
// and how it becomes a recipe for one tensor. Tensor by tensor and element by element the sequence
// of roundings is fixed, so that replaying, folding and resuming give the same bits everywhere.

import { NOISE_STD, round16, type NoiseTerm, type Recipe } from '../noise/distributions.ts'
import { noiseKey } from '../noise/threefry.ts'

/** One step's update of every tensor: w <- w*decay + coefficient*z(seed, step, tensor). */
export interface Update {
  readonly step: number
  /** -lr*g/sqrt(8), rounded to 16 significant bits. */
  readonly coefficient: number
  /** 1 - lr*weight_decay as an f32, for tensors that decay. */
  readonly decay: number
}

/** Biases and norms do not decay (MeZO's rule; they are the one-dimensional tensors). */
export const decays = (name: string) => !/bias|layer_?norm/.test(name)

/** -lr*g*z and the decoupled weight decay as an update of integer noise. */
export function denseUpdate(
  step: number,
  projectedGrad: number,
  lr: number,
  weightDecay: number,
): Update {
  return {
    step,
    coefficient: round16((-lr * projectedGrad) / NOISE_STD),
    decay: Math.fround(1 - lr * weightDecay),
  }
}

/** eps*z with z of unit variance as a scale of integer noise. */
export const denseScale = (eps: number) => round16(eps / NOISE_STD)

/** The terms that `updates` mean for the tensor `name`. */
export function terms(seed: number, name: string, updates: readonly Update[]): NoiseTerm[] {
  const decaying = decays(name)
  return updates.map((update) => ({
    ...noiseKey(seed, update.step, name, 'z'),
    coefficient: update.coefficient,
    decay: decaying ? update.decay : 1,
  }))
}

/** How tensor `name` is seen at a step: updates owed, then one version per scale. */
export function recipe(
  seed: number,
  name: string,
  owed: readonly Update[],
  probe: { step: number; scales: readonly number[] } | null,
): Recipe {
  const list = terms(seed, name, owed)
  if (!probe) return { terms: list, scales: [0] }
  return { terms: list, probe: noiseKey(seed, probe.step, name, 'z'), scales: probe.scales }
}
