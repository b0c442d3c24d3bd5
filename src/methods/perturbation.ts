// The algebra of dense directions: one update as terms on one tensor, and how the probes of a step
// see it. Element by element the sequence of roundings is fixed, so that replaying, folding and
// resuming give the same bits everywhere. Factored directions are in factored.ts.

import { round16, stdOf, type Noise, type NoiseTerm, type Recipe } from '../noise/distributions.ts'
import { noiseKey } from '../noise/threefry.ts'
import type { Probes, Update } from './method.ts'
import type { Selection } from './selection.ts'

/** A run's seed, what its noise is, and which tensors train. */
export interface Scope {
  readonly seed: number
  readonly noise: Noise
  readonly selection: Selection
}

/**
 * w <- w*decay - lr*sum_i grads[i]*z_i as terms of integer noise, for a tensor active in this step.
 * Only matrices decay: biases and norms, the one-dimensional tensors, do not (MeZO's rule).
 */
export function terms(
  { seed, noise, selection }: Scope,
  name: string,
  { step, lr, grads, decay }: Update,
  decays: boolean,
): NoiseTerm[] {
  if (!selection.active(step, name)) return []
  return grads.map((grad, direction) => ({
    ...noiseKey(seed, step, name, 'z', direction),
    coefficient: round16((-lr * grad) / stdOf(noise)),
    decay: decays && direction === 0 ? decay : 1,
  }))
}

/** How probes see a tensor that owes `owed`; null: as it is. */
export function recipe(
  { seed, noise, selection }: Scope,
  name: string,
  owed: readonly NoiseTerm[],
  probes: Probes | null,
): Recipe {
  if (!probes || !selection.active(probes.step, name)) return { noise, terms: owed, scales: [0] }
  const key = (direction: number) => noiseKey(seed, probes.step, name, 'z', direction)
  const scales = probes.list.map(({ scale }) => round16(scale / stdOf(noise)))
  if (probes.list.every(({ direction }) => direction === 0)) {
    return { noise, terms: owed, probe: key(0), scales }
  }
  return { noise, terms: owed, keys: probes.list.map(({ direction }) => key(direction)), scales }
}
