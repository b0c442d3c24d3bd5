// LOZO and LOZO-M (Chen et al., "Enhancing Zeroth-order Fine-tuning for Language Models with
// Low-rank Structures", arXiv 2410.07698). For each matrix W [m, n]; V [n, r] is drawn every nu
// steps, U [m, r] at every step, both of mean 0 and variance 1:
//
//   g  = (L(W + eps*U V^T) - L(W - eps*U V^T)) / (2*eps)
//   lozo     W <- W - lr*g*U V^T / r
//   lozo-m   N <- beta*N + (1-beta)*g*U;  W <- W - lr*N V^T / r;  new V': N <- N (V^T V')/n
//
// --rank-scaling none leaves 1/r out, as the authors' code does. Vectors take dense noise. Probe and
// update have the same U at every step, also where a window ends (the authors' code has not).

import { factoredMethod, type FactoredRecipe } from './factored-method.ts'
import { lowRank } from './structure.ts'

/** Total rank up to which unfolded windows cost little beside the product. */
const CHEAP_RANK = 16

const common: Omit<FactoredRecipe, 'name' | 'momentum'> = {
  addend: 'low-rank',
  of: ({ rank, rankScaling, noise }, shape) =>
    lowRank(shape, rank, rankScaling === 'paper' ? 1 / rank : 1, noise),
  foldWindows: ({ rank }) => Math.max(1, Math.floor(CHEAP_RANK / rank)),
  sizes({ rank, directions }, { rows, cols }, windows, probes) {
    const k = rank * (windows + directions)
    return { cols: k, elements: k * (rows + cols + probes) }
  },
}

export const lozo = factoredMethod({ ...common, name: 'lozo', momentum: false })
export const lozoM = factoredMethod({ ...common, name: 'lozo-m', momentum: true })
