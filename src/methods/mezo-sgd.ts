// MeZO-SGD (Malladi et al., "Fine-Tuning Language Models with Just Forward Passes",
// arXiv 2305.17333, Algorithm 1):
//
//   z ~ N(0, I),  g = (L(theta + eps*z) - L(theta - eps*z)) / (2*eps)
//   theta <- theta - lr*(g*z + weight_decay*theta)
//
// z is of noise/distributions.ts, with unit variance; the decay is decoupled.
// There is no mezo-momentum: sum_i beta^(t-i) g_i z_i needs every past z of some ln(2^-24)/ln(beta)
// steps (158 at beta 0.9) drawn again for every weight and step; a shorter memory is another method.

import { denseDemand, startDense } from './dense.ts'
import type { Method } from './method.ts'

export const mezoSgd: Method = {
  name: 'mezo-sgd',
  addend: null,
  resumesFromWeights: ({ overlayDtype }) => overlayDtype === 'float32',
  folds: () => true,
  beta: () => 0,
  foldWindows: () => Infinity,
  demand: denseDemand,
  start: startDense,
}
