// KronZO and KronZO-M (Allaire et al., "Zeroth-order Kronecker optimization for pretraining language
// models", GERAD G-2025-44). For each matrix W [m1*m2, n1*n2]; B [m2, n2] is drawn every nu steps, A
// [m1, n1] at every step, both of mean 0 and variance 1:
//
//   g  = (L(W + eps*A(x)B) - L(W - eps*A(x)B)) / (2*eps)
//   kronzo     W <- W - lr*g*A(x)B
//   kronzo-m   N <- beta*N + (1-beta)*g*A;  W <- W - lr*N(x)B;  new B': N <- N <B, B'>/(m2*n2)
//
// The product A(x)B is never formed: (A(x)B) x = A X B^T with x as X [n1, n2]. The carried N is the
// counterpart of LOZO-M's, because KronZO is rank-1 LOZO on the rearranged matrix.

import { factoredMethod, type FactoredRecipe } from './factored-method.ts'
import { chooseKronDims } from './kron-sizes.ts'
import type { MatrixShape, MethodOptions } from './method.ts'
import { kronecker } from './structure.ts'

const dims = ({ kronStrategy, kronMaxFactor }: MethodOptions, shape: MatrixShape) =>
  chooseKronDims(shape, kronStrategy, kronMaxFactor)

const common: Omit<FactoredRecipe, 'name' | 'momentum'> = {
  addend: 'kronecker',
  of: (options, shape) => kronecker(dims(options, shape), options.noise),
  // Each further window costs another projection.
  foldWindows: () => 1,
  sizes(options, shape, windows, probes) {
    const { m1, m2, n1, n2 } = dims(options, shape)
    const cols = windows * (shape.transposed ? m1 * n2 : n1 * m2)
    return { cols, elements: windows * (m2 * n2 + probes * m1 * n1) }
  },
}

export const kronzo = factoredMethod({ ...common, name: 'kronzo', momentum: false })
export const kronzoM = factoredMethod({ ...common, name: 'kronzo-m', momentum: true })
