// The estimators on a linear loss L(W) = <G, W>, where g = <G, Z> is exact: mean and second moment of
// the estimate against their formulas, within sampling error; and the update moves along the very
// direction that the probes saw, bit for bit, at every step, window turns included.
// Alone: npx vitest run test/unit/methods-statistics.test.ts

import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { createMethod } from '../../src/methods/index.ts'
import type { MatrixShape, MethodOptions, Probes, TrainingState } from '../../src/methods/method.ts'
import { probeVersion, applyFactors, VARIANCE } from '../reference/noise.ts'
import { NOISES } from '../../src/noise/distributions.ts'
import { type Change } from '../../src/noise/factors.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'
import { METHOD_DEFAULTS } from '../helpers/method-defaults.ts'

// The noise z has variance 1 and E z^4 = 3 + k, k = -1/16 (a centred binomial) or -2 (signs), so that
//   mezo    E|g z|^2        = (N + 2 + k) |G|^2                                    N = m*n
//   lozo    E|g U V^T/r|^2  = [(m+2+k)(n+2+k) + (r-1)(mn + 2)] / r |G|^2
//   kronzo  E|g A(x)B|^2    = (m1 n1 + 2 + k)(m2 n2 + 2 + k) |G|^2
// which for k = 0 are the Gaussian formulas, mn + 2(m+n+r+1)/r for LOZO.

const [M, N] = [6, 8]
const SHAPE = { name: 'w.weight', rows: M, cols: N }
const KURTOSIS = { gaussian: -1 / 16, rademacher: -2 } as const
const SAMPLES = 12_000
const kernel = createNoiseKernel()
const G = Float64Array.from({ length: M * N }, (_, i) => Math.sin(i * 1.7) + (i % 5 === 0 ? 1 : 0))
const normG = G.reduce((sum, g) => sum + g * g, 0)

function start(method: string, options: Partial<MethodOptions>): TrainingState {
  return createMethod(method).start({ ...METHOD_DEFAULTS, ...options }, [SHAPE], kernel)
}

/** What the change makes of a matrix of zeros, f32. */
function changed(change: Change): Float32Array {
  const w = new Float32Array(M * N)
  kernel.change(new Uint8Array(w.buffer), 'F32', 0, N, change, w)
  return w
}

/** theta(probe) - theta for scale 1, as the host sees rows of the matrix. */
function direction(state: TrainingState, step: number, index = 0): Float32Array {
  const probe: Probes = { step, list: [{ direction: index, scale: 1 }] }
  const view = state.rows(SHAPE.name, probe)
  const w = new Float32Array(M * N)
  if (view.kind === 'dense') return probeVersion(w, 0, { ...view.recipe, terms: [] }, 0)
  applyFactors(w, 0, N, { decay: 1, terms: view.extra[0]! })
  return w
}

/** Mean and standard error. */
function moments(values: readonly number[]) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1)
  return { mean, error: Math.sqrt(variance / values.length) }
}

const lozoMoment = (r: number) => (k: number) =>
  ((M + 2 + k) * (N + 2 + k) + (r - 1) * (M * N + 2)) / r

// 6 = 3 x 2 and 8 = 2 x 4 by approx_square: A [3, 2], B [2, 4].
describe.each([
  ['mezo-sgd', {}, 1, (k: number) => M * N + 2 + k],
  ['lozo', { rank: 1, window: 1 }, 1, lozoMoment(1)],
  ['lozo', { rank: 2, window: 1 }, 1 / 2, lozoMoment(2)],
  ['lozo', { rank: 4, window: 1 }, 1 / 4, lozoMoment(4)],
  ['kronzo', { window: 1 }, 1, (k: number) => (3 * 2 + 2 + k) * (2 * 4 + 2 + k)],
] as const)('%s %j', (method, options, gain, momentOf) => {
  it.each(NOISES)('is unbiased with %s noise, with the second moment of its formula', (noise) => {
    const moment = momentOf(KURTOSIS[noise])
    const state = start(method, { ...options, noise, foldWindows: 1 })
    const estimates: number[][] = []
    for (let step = 0; step < SAMPLES; step++) {
      state.begin(step)
      const z = direction(state, step)
      const g = z.reduce((sum, value, i) => sum + value * G[i]!, 0)
      estimates.push([...z].map((value) => gain * g * value))
    }
    G.forEach((expected, i) => {
      const { mean, error } = moments(estimates.map((e) => e[i]!))
      expect(Math.abs(mean - expected), `element ${i}`).toBeLessThan(5 * error)
    })
    const { mean, error } = moments(estimates.map((e) => e.reduce((sum, v) => sum + v * v, 0)))
    expect(Math.abs(mean - moment * normG)).toBeLessThan(4 * error)
    expect(error).toBeLessThan(0.05 * mean)
  })
})

it.each(NOISES)(
  "within a window LOZO's mean is the gradient through V: G V V^T / r, %s",
  (noise) => {
    const rank = 2
    const state = start('lozo', { rank, window: SAMPLES, noise })
    const estimates: number[][] = []
    for (let step = 0; step < SAMPLES; step++) {
      const z = direction(state, step)
      const g = z.reduce((sum, value, i) => sum + value * G[i]!, 0)
      estimates.push([...z].map((value) => (g * value) / rank))
    }
    const { right } = state.addend(SHAPE.name, { step: 0, list: [{ direction: 0, scale: 1 }] })!
    for (let i = 0; i < M; i++) {
      for (let k = 0; k < N; k++) {
        let expected = 0
        for (let c = 0; c < rank; c++) {
          for (let j = 0; j < N; j++) {
            expected +=
              (G[i * N + j]! * (right[c * N + j]! * right[c * N + k]!)) / VARIANCE[noise] / rank
          }
        }
        const { mean, error } = moments(estimates.map((e) => e[i * N + k]!))
        expect(Math.abs(mean - expected)).toBeLessThan(5 * error)
      }
    }
  },
)

/** The direction as a device multiplies with it: half of what two probes of +-1 differ by. */
function directionOnDevice(state: TrainingState, shape: MatrixShape, step: number, index: number) {
  const list = [1, -1].map((scale) => ({ direction: index, scale }))
  const addend = state.addend(shape.name, { step, list })!
  const { rows, cols, transposed } = shape
  const z = new Float64Array(rows * cols)
  const add = (n: number, k: number, value: number) => {
    z[transposed ? k * cols + n : n * cols + k]! += value
  }
  const [outputs, inputs] = transposed ? [cols, rows] : [rows, cols]
  for (const [p, sign] of [0.5, -0.5].entries()) {
    for (let n = 0; n < outputs; n++) {
      for (let k = 0; k < inputs; k++) {
        if (addend.kind === 'low-rank') {
          const { rank, left, right, scales } = addend
          for (let c = 0; c < rank; c++) {
            add(n, k, sign * left[n * rank + c]! * right[c * inputs + k]! * scales[p * rank + c]!)
          }
          continue
        }
        const { terms, m1, m2, n1, n2, left, right } = addend
        const [i, r] = [Math.floor(n / m2), n % m2]
        const [j, c] = [Math.floor(k / n2), k % n2]
        for (let t = 0; t < terms; t++) {
          const a = left[((p * m1 + i) * terms + t) * n1 + j]!
          add(n, k, sign * a * right[(t * m2 + r) * n2 + c]!)
        }
      }
    }
  }
  return z
}

const hash = (values: Iterable<number>) =>
  createHash('sha256')
    .update(new Uint8Array(Float64Array.from(values, (v) => v + 0).buffer)) // -0 becomes 0
    .digest('hex')

// All scalars are powers of two and all noise small integers, so that f32 makes no rounding error
// and equality can be asked for.
describe.each([
  ['mezo-sgd', { replayWindow: 1 }, 1],
  ['mezo-sgd', { replayWindow: 1, noise: 'rademacher' }, 1],
  ['lozo', { rank: 2 }, 1 / 2],
  ['lozo', { rank: 2, noise: 'rademacher' }, 1 / 2],
  ['lozo', { rank: 2, rankScaling: 'none' }, 1],
  ['kronzo', {}, 1],
  ['kronzo', { noise: 'rademacher' }, 1],
] as const)('the update of %s %j', (method, options, gain) => {
  it.each([
    [1, 1, false],
    [1, 3, true],
    [2, 1, true],
    [2, 3, false],
    [3, 2, false],
    [50, 3, true],
  ])(
    'is the direction of the probes at every step: nu %d, %d directions, transposed %s',
    (window, directions, transposed) => {
      const shape = { ...SHAPE, transposed }
      const all = { ...METHOD_DEFAULTS, ...options, window, directions, foldWindows: 2 }
      const state = createMethod(method).start(all, [shape], kernel)
      let distinct = 0
      for (let step = 0; step < 9; step++) {
        state.begin(step)
        state.overdue(0)
        const before = changed(state.change(SHAPE.name))
        const seen = Array.from({ length: directions }, (_, d) => direction(state, step, d))
        if (method !== 'mezo-sgd') {
          seen.forEach((z, d) => {
            expect(hash(directionOnDevice(state, shape, step, d))).toBe(hash(z))
          })
        }
        const grads = seen.map((_, d) => 0.5 * 2 ** d)
        state.push({ step, lr: 0.25, grads, decay: 1 })
        const after = changed(state.change(SHAPE.name))
        const expected = before.map((_, i) =>
          seen.reduce((sum, z, d) => sum - 0.25 * gain * grads[d]! * z[i]!, 0),
        )
        expect(hash(after.map((v, i) => v - before[i]!)), `step ${step}`).toBe(hash(expected))
        distinct = Math.max(distinct, new Set(seen.map(hash)).size)
      }
      // Of six signs two directions of a step may be the same by chance, but not at every step.
      expect(distinct).toBe(directions)
    },
  )
})

/** Steps on |W - T|^2 / 2 from W = 0, two-sided as the estimator makes it; the share of the loss left. */
function learn(method: string, options: Partial<MethodOptions>, lr: number, steps: number): number {
  const state = start(method, { ...options, foldWindows: steps })
  const loss = (w: ArrayLike<number>) => G.reduce((sum, g, i) => sum + (w[i]! - g) ** 2, 0) / 2
  for (let step = 0; step < steps; step++) {
    state.begin(step)
    const [w, z] = [changed(state.change(SHAPE.name)), direction(state, step)]
    const [plus, minus] = [1e-3, -1e-3].map((eps) => loss([...w].map((v, i) => v + eps * z[i]!)))
    state.push({ step, lr, grads: [(plus! - minus!) / 2e-3], decay: 1 })
  }
  return loss(changed(state.change(SHAPE.name))) / loss(new Float32Array(M * N))
}

// A momentum that is projected on a new right factor at every step keeps little: a step is (1 - beta)
// of a plain one, which lr makes up for.
it.each([
  ['lozo', { rank: 2 }, 0.01],
  ['lozo-m', { rank: 2 }, 0.1],
  ['lozo-m', { rank: 2, noise: 'rademacher' }, 0.1],
  ['kronzo', {}, 0.01],
  ['kronzo-m', {}, 0.1],
  ['kronzo-m', { noise: 'rademacher' }, 0.1],
] as const)('%s %j learns with a new right factor at every step', (method, options, lr) => {
  const left = learn(method, { ...options, window: 1, momentum: 0.9 }, lr, 300)
  expect(left).toBeLessThan(0.1)
})
