// Seeded numbers for property tests: a failing case is the same case tomorrow.

export interface Random {
  /** A whole number in [low, high], small ones as likely as large ones. */
  whole(low: number, high: number): number
  pick<T>(list: readonly T[]): T
}

export function randomOf(seed: number): Random {
  let state = Math.imul(seed + 1, 2654435761) >>> 0
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    const mixed = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d)
    return ((mixed ^ (mixed >>> 13)) >>> 0) / 2 ** 32
  }
  const whole = (low: number, high: number) =>
    Math.min(high, Math.floor(low * (high / low + 1 / low) ** uniform()))
  return { whole, pick: (list) => list[Math.floor(uniform() * list.length)]! }
}
