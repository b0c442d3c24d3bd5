// Least squares: a line.

export interface Fit {
  readonly intercept: number
  readonly slope: number
  /** Share of the variance of y that the line explains. */
  readonly r2: number
}

/** y ~ intercept + slope * x. */
export function leastSquares(x: readonly number[], y: readonly number[]): Fit {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length
  const [meanX, meanY] = [mean(x), mean(y)]
  const sum = (of: (dx: number, dy: number) => number) =>
    x.reduce((total, value, i) => total + of(value - meanX, y[i]! - meanY), 0)
  const slope = sum((dx, dy) => dx * dy) / sum((dx) => dx * dx)
  return {
    slope,
    intercept: meanY - slope * meanX,
    r2: 1 - sum((dx, dy) => (dy - slope * dx) ** 2) / sum((_, dy) => dy * dy),
  }
}
