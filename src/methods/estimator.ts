// From the losses of probes to projected gradients.
//
//   two-sided   g_i = (L(theta + eps*z_i) - L(theta - eps*z_i)) / (2*eps)         (SPSA; MeZO)
//   one-sided   g_i = (L(theta + eps*z_i) - L(theta)) / sigma, with sigma the standard deviation of
//               the q perturbed losses (FZOO, arXiv 2506.09034): lr is then a length, not a rate
//
// The update averages over the q directions.

import type { Probe } from './method.ts'

export const ESTIMATORS = ['two-sided', 'one-sided'] as const

export interface Estimator {
  readonly oneSided: boolean
  /** The probes of a step, in the order of their rows. */
  probes(eps: number): Probe[]
  /** g_i from the mean loss of each probe; NaN or infinite if a loss is. */
  grads(losses: readonly number[], eps: number): number[]
  /** Loss at the centre, or its estimate as the mean over both sides. */
  centre(losses: readonly number[]): number
  /** Mean over the probes on each side; for one-sided the minus side is the centre. */
  sides(losses: readonly number[]): { plus: number; minus: number }
}

/** @param directions q: 1 or more, 2 or more for one-sided; P is 2q, or q + 1 */
export function createEstimator(kind: (typeof ESTIMATORS)[number], directions: number): Estimator {
  const each = Array.from({ length: directions }, (_, direction) => direction)
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length
  if (kind === 'two-sided') {
    const sides = (losses: readonly number[]) => ({
      plus: mean(each.map((i) => losses[2 * i]!)),
      minus: mean(each.map((i) => losses[2 * i + 1]!)),
    })
    return {
      oneSided: false,
      probes: (eps) =>
        each.flatMap((direction) => [
          { direction, scale: eps },
          { direction, scale: -eps },
        ]),
      grads: (losses, eps) => each.map((i) => (losses[2 * i]! - losses[2 * i + 1]!) / (2 * eps)),
      centre: (losses) => mean(losses),
      sides,
    }
  }
  return {
    oneSided: true,
    probes: (eps) => [
      { direction: 0, scale: 0 },
      ...each.map((direction) => ({ direction, scale: eps })),
    ],
    grads([centre, ...losses]) {
      const average = mean(losses)
      const variance =
        losses.reduce((sum, loss) => sum + (loss - average) ** 2, 0) / (directions - 1)
      return losses.map((loss) => (loss - centre!) / Math.sqrt(variance))
    },
    centre: ([centre]) => centre!,
    sides: ([centre, ...losses]) => ({ plus: mean(losses), minus: centre! }),
  }
}
