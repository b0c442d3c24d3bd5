// The methods of the papers, in place, in f64 and in plain loops: every direction is formed as a
// whole matrix, perturbs the parameters where they are, and is taken back. For tests only; shares
// nothing with src/methods but the noise itself.

import type { Batch } from '../../src/data/types.ts'
import type { Noise } from '../../src/noise/distributions.ts'
import { noiseKey, type Role } from '../../src/noise/threefry.ts'
import { unitAt } from './noise.ts'
import type { Parameters } from './opt.ts'

export interface Paper {
  readonly method: 'mezo-sgd' | 'lozo' | 'lozo-m' | 'kronzo' | 'kronzo-m'
  readonly seed: number
  readonly noise: Noise
  readonly lr: number
  readonly eps: number
  readonly weightDecay: number
  readonly rank: number
  readonly window: number
  readonly beta: number
  readonly directions: number
  readonly oneSided: boolean
}

/** A tensor's numbers, row by row. */
type Flat = Float64Array

/** m x n numbers from a row and a column. */
function matrix(m: number, n: number, at: (i: number, k: number) => number): Flat {
  const made = new Float64Array(m * n)
  for (let i = 0; i < m; i++) for (let k = 0; k < n; k++) made[i * n + k] = at(i, k)
  return made
}

/** Draws n numbers for direction d of a tensor at a step or in a window. */
const drawer =
  ({ seed, noise }: Paper) =>
  (step: number, name: string, role: Role, d: number, n: number) => {
    const key = noiseKey(seed, step, name, role, d)
    return new Float64Array(n).map((_, i) => unitAt(noise, key, i))
  }

/** The divisor of d nearest below its root, and its partner. */
function divisors(d: number): [small: number, large: number] {
  let small = Math.floor(Math.sqrt(d))
  while (d % small !== 0) small--
  return [small, d / small]
}

/** The left factor's noise, and the whole direction that a left factor means in a window. */
function factors(p: Paper, name: string, m: number, n: number) {
  const noise = drawer(p)
  if (p.method.startsWith('lozo')) {
    const { rank: r } = p
    return {
      size: m * r,
      gain: 1 / r,
      right: (window: number) => noise(window, name, 'right', 0, r * n),
      whole: (left: Flat, v: Flat) =>
        matrix(m, n, (i, k) => {
          let sum = 0
          for (let c = 0; c < r; c++) sum += left[i * r + c]! * v[c * n + k]!
          return sum
        }),
      /** N (V_old^T V_new)/n */
      carry: (left: Flat, old: Flat, next: Flat) =>
        left.map((_, at) => {
          const [i, b] = [Math.floor(at / r), at % r]
          let sum = 0
          for (let a = 0; a < r; a++) {
            for (let k = 0; k < n; k++) sum += left[i * r + a]! * old[a * n + k]! * next[b * n + k]!
          }
          return sum / n
        }),
    }
  }
  const [[m2, m1], [n1, n2]] = [divisors(m), divisors(n)]
  return {
    size: m1 * n1,
    gain: 1,
    right: (window: number) => noise(window, name, 'right', 0, m2 * n2),
    whole: (a: Flat, b: Flat) =>
      matrix(m, n, (i, k) => {
        const left = a[Math.floor(i / m2) * n1 + Math.floor(k / n2)]!
        return left * b[(i % m2) * n2 + (k % n2)]!
      }),
    carry(a: Flat, old: Flat, next: Flat) {
      const dot = old.reduce((sum, value, i) => sum + value * next[i]!, 0)
      return a.map((value) => (value * dot) / (m2 * n2))
    },
  }
}

export interface PaperRun {
  /** Mean loss of every probe, by step. */
  readonly losses: readonly (readonly number[])[]
  readonly grads: readonly (readonly number[])[]
}

/**
 * Runs the method on `theta` in place, which `meanLoss` measures. `shapes` has two sizes for matrices, one for
 * vectors.
 */
export function runPaper(
  p: Paper,
  theta: Parameters,
  shapes: ReadonlyMap<string, readonly number[]>,
  meanLoss: (theta: Parameters, batch: Batch) => number,
  batches: readonly Batch[],
): PaperRun {
  const momenta = new Map<string, Flat>()
  const run: PaperRun & { losses: number[][]; grads: number[][] } = { losses: [], grads: [] }
  const hasMomentum = p.method.endsWith('-m')
  const noise = drawer(p)

  batches.forEach((batch, step) => {
    const window = Math.floor(step / p.window)
    const turns = step > 0 && step % p.window === 0
    /** By tensor: the left factors (or dense z) of the step, and what one means as a whole. */
    const own = new Map(
      [...theta].map(([name, values]) => {
        const [m, n] = shapes.get(name)! as [number, number]
        const dense = n === undefined || p.method === 'mezo-sgd'
        if (dense) {
          const size = values.length
          const z = Array.from({ length: p.directions }, (_, d) => noise(step, name, 'z', d, size))
          return [name, { z, gain: 1, whole: (flat: Flat) => flat }]
        }
        const f = factors(p, name, m, n)
        const right = f.right(window)
        if (turns && momenta.has(name)) {
          momenta.set(name, f.carry(momenta.get(name)!, f.right(window - 1), right))
        }
        const z = Array.from({ length: p.directions }, (_, d) =>
          noise(step, name, 'left', d, f.size),
        )
        const whole = (left: Flat) => f.whole(left, right)
        return [name, { z, gain: f.gain, whole }]
      }),
    )
    /** By direction and tensor. */
    const directions = Array.from({ length: p.directions }, (_, d) =>
      [...own].map(([name, { z, whole }]) => [theta.get(name)!, whole(z[d]!)] as const),
    )
    const move = (d: number, scale: number) => {
      for (const [values, whole] of directions[d]!) {
        for (let i = 0; i < values.length; i++) values[i]! += scale * whole[i]!
      }
    }
    const lossAt = (d: number, scale: number) => {
      move(d, scale)
      const loss = meanLoss(theta, batch)
      move(d, -scale)
      return loss
    }
    const each = Array.from({ length: p.directions }, (_, d) => d)
    let grads: number[]
    if (p.oneSided) {
      const centre = lossAt(0, 0)
      const losses = each.map((d) => lossAt(d, p.eps))
      const mean = losses.reduce((a, b) => a + b) / losses.length
      const variance = losses.reduce((sum, l) => sum + (l - mean) ** 2, 0) / (losses.length - 1)
      grads = losses.map((loss) => (loss - centre) / Math.sqrt(variance))
      run.losses.push([centre, ...losses])
    } else {
      const pairs = each.map((d) => [lossAt(d, p.eps), lossAt(d, -p.eps)] as const)
      grads = pairs.map(([plus, minus]) => (plus - minus) / (2 * p.eps))
      run.losses.push(pairs.flat())
    }
    run.grads.push(grads)

    for (const [name, values] of theta) {
      const { z, gain, whole } = own.get(name)!
      let left = z[0]!.map((_, i) =>
        each.reduce((sum, d) => sum + (grads[d]! / p.directions) * z[d]![i]!, 0),
      )
      if (hasMomentum) {
        const before = momenta.get(name) ?? left.map(() => 0)
        left = left.map((value, i) => p.beta * before[i]! + (1 - p.beta) * value)
        momenta.set(name, left)
      }
      const decay = shapes.get(name)!.length === 2 ? p.weightDecay : 0
      whole(left).forEach((value, i) => {
        values[i] = values[i]! * (1 - p.lr * decay) - p.lr * gain * value
      })
    }
  })
  return run
}
