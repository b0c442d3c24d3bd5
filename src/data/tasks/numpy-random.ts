// NumPy's legacy generator (MT19937), the part behind `np.random.seed(s); np.random.permutation(n)`:
// MeZO draws its examples with it, so that the same seed gives the same examples as there.
// Source: Matsumoto & Nishimura 1998; numpy/random/mtrand, `_legacy_seeding` and `shuffle`.

const N = 624

/** @param seed a u32 @returns the numbers 0 .. length-1 as NumPy's legacy permutation orders them */
export function numpyPermutation(length: number, seed: number): Uint32Array {
  const next = mersenneTwister(seed)
  const order = Uint32Array.from({ length }, (_, i) => i)
  for (let i = length - 1; i > 0; i--) {
    const j = below(next, i)
    const moved = order[i]!
    order[i] = order[j]!
    order[j] = moved
  }
  return order
}

/** A number from 0 to `most`: masked draws until one fits. */
function below(next: () => number, most: number): number {
  const mask = 2 ** (32 - Math.clz32(most)) - 1
  for (;;) {
    const value = (next() & mask) >>> 0
    if (value <= most) return value
  }
}

/** A generator of u32. */
function mersenneTwister(seed: number): () => number {
  const state = new Uint32Array(N)
  state[0] = seed
  for (let i = 1; i < N; i++) {
    const before = state[i - 1]!
    state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i
  }
  let at = N
  const twist = () => {
    for (let i = 0; i < N; i++) {
      const y = (state[i]! & 0x80000000) | (state[(i + 1) % N]! & 0x7fffffff)
      state[i] = state[(i + 397) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0)
    }
    at = 0
  }
  return () => {
    if (at === N) twist()
    let y = state[at++]!
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }
}
