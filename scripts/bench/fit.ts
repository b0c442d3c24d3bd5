// Least squares with an intercept, for any number of variables.

export interface Fit {
  readonly intercept: number
  /** One for each variable. */
  readonly slopes: readonly number[]
  /** Share of the variance of y that the fit explains. */
  readonly r2: number
}

/** y ~ intercept + sum of slopes[i] * x[point][i]; the normal equations of centred variables. */
export function leastSquares(x: readonly (readonly number[])[], y: readonly number[]): Fit {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length
  const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, v, i) => sum + v * b[i]!, 0) // prettier-ignore
  const columns = x[0]!.map((_, i) => x.map((point) => point[i]!))
  const means = columns.map(mean)
  const centred = columns.map((column, i) => column.map((value) => value - means[i]!))
  const above = y.map((value) => value - mean(y))
  const slopes = solve(
    centred.map((a) => centred.map((b) => dot(a, b))),
    centred.map((a) => dot(a, above)),
  )
  const left = above.map((value, p) => value - dot(slopes, centred.map((column) => column[p]!))) // prettier-ignore
  return {
    slopes,
    intercept: mean(y) - dot(slopes, means),
    r2: 1 - dot(left, left) / dot(above, above),
  }
}

/** a * result = b, by Gauss-Jordan; a is symmetric and positive definite. */
function solve(a: readonly (readonly number[])[], b: readonly number[]): number[] {
  const rows = a.map((row, i) => [...row, b[i]!])
  for (const [i, pivot] of rows.entries()) {
    for (const [j, row] of rows.entries()) {
      if (j === i) continue
      const factor = row[i]! / pivot[i]!
      for (let k = i; k < row.length; k++) row[k]! -= factor * pivot[k]!
    }
  }
  return rows.map((row, i) => row.at(-1)! / row[i]!)
}
