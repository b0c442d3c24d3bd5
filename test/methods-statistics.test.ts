// The estimators on a linear loss L(W) = <G, W>, where g = <G, Z> is exact: mean and second moment of
// the estimate against their formulas, within sampling error; and the update moves along the very
// direction that the probes saw, at every step, window turns included.
//
// The noise z has variance 1 and E z^4 = 3 + k, k = -1/16 (a centred binomial), so that
//   mezo    E|g z|^2        = (N + 2 + k) |G|^2                                    N = m*n
//   lozo    E|g U V^T/r|^2  = [(m+2+k)(n+2+k) + (r-1)(mn + 2)] / r |G|^2
//   kronzo  E|g A(x)B|^2    = (m1 n1 + 2 + k)(m2 n2 + 2 + k) |G|^2
// which for k = 0 are the Gaussian formulas, mn + 2(m+n+r+1)/r for LOZO.
// Alone: npx vitest run test/methods-statistics.test.ts

import { describe, expect, it } from 'vitest'
import { createMethod } from '../src/methods/index.ts'
import type { MethodOptions, Probe, TrainingState } from '../src/methods/method.ts'
import { probeVersion } from '../src/noise/distributions.ts'
import { applyFactors, type Change } from '../src/noise/factors.ts'
import { createNoiseKernel } from '../src/noise/wasm.ts'
import { METHOD_DEFAULTS } from './helpers/runs.ts'

const [M, N] = [6, 8]
const SHAPE = { name: 'w.weight', rows: M, cols: N }
const KURTOSIS = -1 / 16
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
  const probe: Probe = { step, probes: [{ direction: index, scale: 1 }] }
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

const lozoMoment = (r: number) =>
  ((M + 2 + KURTOSIS) * (N + 2 + KURTOSIS) + (r - 1) * (M * N + 2)) / r

// 6 = 3 x 2 and 8 = 2 x 4 by approx_square: A [3, 2], B [2, 4].
describe.each([
  ['mezo-sgd', {}, 1, M * N + 2 + KURTOSIS],
  ['lozo', { rank: 1, window: 1 }, 1, lozoMoment(1)],
  ['lozo', { rank: 2, window: 1 }, 1 / 2, lozoMoment(2)],
  ['lozo', { rank: 4, window: 1 }, 1 / 4, lozoMoment(4)],
  ['kronzo', { window: 1 }, 1, (3 * 2 + 2 + KURTOSIS) * (2 * 4 + 2 + KURTOSIS)],
] as const)('%s %j', (method, options, gain, moment) => {
  it('is unbiased, with the second moment of its formula', () => {
    const state = start(method, { ...options, foldWindows: 1 })
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

it("within a window LOZO's mean is the gradient through V: G V V^T / r", () => {
  const rank = 2
  const state = start('lozo', { rank, window: SAMPLES })
  const estimates: number[][] = []
  for (let step = 0; step < SAMPLES; step++) {
    const z = direction(state, step)
    const g = z.reduce((sum, value, i) => sum + value * G[i]!, 0)
    estimates.push([...z].map((value) => (g * value) / rank))
  }
  const { right } = state.addend(SHAPE.name, { step: 0, probes: [{ direction: 0, scale: 1 }] })!
  for (let i = 0; i < M; i++) {
    for (let k = 0; k < N; k++) {
      let expected = 0
      for (let c = 0; c < rank; c++) {
        for (let j = 0; j < N; j++) {
          expected += (G[i * N + j]! * (right[c * N + j]! * right[c * N + k]!)) / 8 / rank
        }
      }
      const { mean, error } = moments(estimates.map((e) => e[i * N + k]!))
      expect(Math.abs(mean - expected)).toBeLessThan(5 * error)
    }
  }
})

describe.each([
  ['mezo-sgd', {}, 1],
  ['lozo', { rank: 2 }, 1 / 2],
  ['lozo', { rank: 2, rankScaling: 'none' }, 1],
  ['kronzo', {}, 1],
] as const)('the update of %s %j', (method, options, gain) => {
  it.each([1, 2, 3, 50])('is along the direction of the probes at every step, nu %d', (window) => {
    for (const directions of [1, 3]) {
      const state = start(method, { ...options, window, directions, foldWindows: 2 })
      let before: Float32Array = new Float32Array(M * N)
      for (let step = 0; step < 9; step++) {
        if (state.begin(step)) before = new Float32Array(M * N)
        const seen = Array.from({ length: directions }, (_, d) => direction(state, step, d))
        const grads = seen.map((_, d) => 0.5 + d)
        state.push({ step, lr: 0.25, grads, decay: 1 })
        const after = changed(state.change(SHAPE.name))
        for (let i = 0; i < M * N; i++) {
          const moved = after[i]! - before[i]!
          const expected = -0.25 * gain * seen.reduce((sum, z, d) => sum + grads[d]! * z[i]!, 0)
          expect(Math.abs(moved - expected), `step ${step}`).toBeLessThan(2e-5)
        }
        before = after
      }
    }
  })
})
