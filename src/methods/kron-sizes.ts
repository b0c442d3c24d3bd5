// Factor sizes of Kronecker directions: rows = m1*m2, cols = n1*n2, A [m1, n1], B [m2, n2], and
// kron(A, B) has exactly the matrix's shape. Which divisor pair is the strategy's choice; which of the
// pair comes first is chosen so that (A (x) B) x is cheap: B's side small where outputs are formed.

export const KRON_STRATEGIES = ['approx_square', 'fixed_factor', 'power2'] as const
export type KronStrategy = (typeof KRON_STRATEGIES)[number]

export interface KronDims {
  readonly m1: number
  readonly m2: number
  readonly n1: number
  readonly n2: number
}

/**
 * A divisor pair of d:
 *   approx_square  the divisor nearest below sqrt(d), and its partner
 *   fixed_factor   the largest divisor of at most `maxFactor`, and its partner
 *   power2         the largest power of two that divides d, and the odd rest
 */
export function divisorPair(
  d: number,
  strategy: KronStrategy,
  maxFactor: number,
): [small: number, large: number] {
  let divisor = 1
  if (strategy === 'power2') {
    while (d % (divisor * 2) === 0) divisor *= 2
  } else {
    const limit = strategy === 'approx_square' ? Math.floor(Math.sqrt(d)) : Math.min(maxFactor, d)
    for (divisor = limit; d % divisor !== 0;) divisor--
  }
  const partner = d / divisor
  return divisor < partner ? [divisor, partner] : [partner, divisor]
}

/** Sizes for a matrix [rows, cols] as its file holds it. */
export function chooseKronDims(
  { rows, cols, transposed = false }: { rows: number; cols: number; transposed?: boolean },
  strategy: KronStrategy,
  maxFactor: number,
): KronDims {
  const [rowSmall, rowLarge] = divisorPair(rows, strategy, maxFactor)
  const [colSmall, colLarge] = divisorPair(cols, strategy, maxFactor)
  // The projection of one row of x has n1*m2 numbers (m1*n2 if the file is transposed).
  return transposed
    ? { m1: rowSmall, m2: rowLarge, n1: colLarge, n2: colSmall }
    : { m1: rowLarge, m2: rowSmall, n1: colSmall, n2: colLarge }
}
