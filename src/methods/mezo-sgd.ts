// MeZO-SGD (Malladi et al., "Fine-Tuning Language Models with Just Forward Passes",
// arXiv 2305.17333, Algorithm 1):
//
//   z ~ N(0, I),  g = (L(theta + eps*z) - L(theta - eps*z)) / (2*eps)
//   theta <- theta - lr*(g*z + weight_decay*theta)
//
// z is the centred binomial of noise/distributions.ts with unit variance; the decay is decoupled.

import type { Method } from './method.ts'
import { denseScale, denseUpdate } from './perturbation.ts'

export const mezoSgd: Method = {
  name: 'mezo-sgd',
  scales: (eps) => [denseScale(eps), -denseScale(eps)],
  projectedGrad: ([plus, minus], eps) => (plus! - minus!) / (2 * eps),
  update: (g, { step, lr, weightDecay }) => denseUpdate(step, g, lr, weightDecay),
}
