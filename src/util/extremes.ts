// The largest and the smallest of a list of any length. Spread into a call, as Math.max(...list), a
// list of some 100,000 overflows the stack; eslint.config.js refuses that.

/** The largest of the numbers; `least` where there are none, or none is larger. */
export function maxOf(numbers: Iterable<number>, least = -Infinity): number {
  let most = least
  for (const number of numbers) most = Math.max(most, number)
  return most
}

/** The smallest of the numbers; Infinity where there are none. */
export function minOf(numbers: Iterable<number>): number {
  let least = Infinity
  for (const number of numbers) least = Math.min(least, number)
  return least
}
