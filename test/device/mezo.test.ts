// MeZO-SGD against the paper: Algorithm 1 of arXiv 2305.17333, in place, in f64 and in plain loops,
// with the same z, gives the same projected gradients and weights to f32 tolerance.
// Alone: npx vitest run test/device/mezo.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Batch } from '../../src/data/types.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import { NOISES, type Noise } from '../../src/noise/distributions.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import type { Checkpoint } from '../../src/checkpoint/types.ts'
import { openDevices } from '../helpers/devices.ts'
import {
  exportedTensors,
  openRun,
  syntheticBatch,
  trainSteps,
  type OpenDevice,
} from '../helpers/runs.ts'
import { unitAt } from '../reference/noise.ts'
import { meanLoss, readParameters, type Parameters } from '../reference/opt.ts'

const LAYOUTS = fileURLToPath(new URL('../fixtures/layouts/', import.meta.url))
const SEED = 5
const EPS = 1e-3
const LR = 1e-4

/** Largest difference from f64; measured on both devices, then about doubled. */
interface Tolerance {
  readonly loss: number
  readonly weight: number
}
const ONE_STEP: Tolerance = { loss: 1.5e-6, weight: 5e-7 }
// Rounding to f32 moves the weights 20 times, and the losses follow.
const TWENTY_STEPS: Tolerance = { loss: 1e-5, weight: 4e-6 }
// g = (loss+ - loss-) / 2 eps magnifies what does not cancel between the two losses by 500.
const gradTolerance = (g: number) => 1e-4 * Math.abs(g) + 1e-3

interface Reference {
  readonly losses: readonly (readonly [number, number])[]
  readonly grads: readonly number[]
  readonly theta: Parameters
}

/** theta += scale * z of this step, for every parameter once. */
function perturb(theta: Parameters, noise: Noise, step: number, scale: number): void {
  for (const [name, values] of theta) {
    const key = noiseKey(SEED, step, name, 'z')
    values.forEach((_, i) => (values[i]! += scale * unitAt(noise, key, i)))
  }
}

/** Algorithm 1, with MeZO's weight decay: of matrices, not of biases and norms. */
function inPlace(
  theta: Parameters,
  checkpoint: Checkpoint,
  batches: readonly Batch[],
  noise: Noise,
  weightDecay: number,
): Reference {
  const losses: [number, number][] = []
  const grads: number[] = []
  batches.forEach((batch, step) => {
    perturb(theta, noise, step, EPS)
    const plus = meanLoss(theta, checkpoint.config, batch)
    perturb(theta, noise, step, -2 * EPS)
    const minus = meanLoss(theta, checkpoint.config, batch)
    perturb(theta, noise, step, EPS)
    const g = (plus - minus) / (2 * EPS)
    for (const [name, values] of theta) {
      const key = noiseKey(SEED, step, name, 'z')
      const decay = checkpoint.tensors.get(name)!.shape.length === 2 ? weightDecay : 0
      values.forEach((v, i) => {
        values[i] = v - LR * (g * unitAt(noise, key, i) + decay * v)
      })
    }
    losses.push([plus, minus])
    grads.push(g)
  })
  return { losses, grads, theta }
}

/** Largest difference between exported weights and the reference, over all tensors. */
function farthest(weights: ReadonlyMap<string, Uint8Array>, theta: Parameters): number {
  expect([...weights.keys()].sort()).toEqual([...theta.keys()].sort())
  let most = 0
  for (const [name, expected] of theta) {
    const found = new Float32Array(weights.get(name)!.buffer)
    expect(found.length).toBe(expected.length)
    expected.forEach((v, i) => (most = Math.max(most, Math.abs(v - found[i]!))))
  }
  return most
}

function expectSameSteps(
  journal: readonly JournalEntry[],
  reference: Reference,
  { loss }: Tolerance,
): void {
  expect(journal.length).toBe(reference.grads.length)
  journal.forEach((entry, i) => {
    const [plus, minus] = reference.losses[i]!
    expect(Math.abs(entry.loss_plus! - plus), `loss+ of step ${i}`).toBeLessThan(loss)
    expect(Math.abs(entry.loss_minus! - minus), `loss- of step ${i}`).toBeLessThan(loss)
    const g = reference.grads[i]!
    expect(Math.abs(entry.projected_grad - g), `g of step ${i}`).toBeLessThan(gradTolerance(g))
  })
}

describe.each(openDevices())('MeZO-SGD on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  describe.each(NOISES)('with %s noise', (noise) => {
    // layout, steps, weight decay
    it.each([
      ['pre-norm-tied', 1, 0, ONE_STEP],
      ['untied', 1, 0, ONE_STEP],
      ['f16', 1, 0.1, ONE_STEP],
      ['pre-norm-tied', 20, 0.1, TWENTY_STEPS],
    ])("equals the paper's in-place steps in f64: %s, %d steps, decay %d", async (...given) => {
      const [layout, steps, weightDecay, tolerance] = given
      const checkpoint = await openCheckpoint(join(LAYOUTS, layout))
      const batches = Array.from({ length: steps }, (_, i) => syntheticBatch(2, 6, 97, i))
      const start = await readParameters(checkpoint)
      const reference = inPlace(
        await readParameters(checkpoint),
        checkpoint,
        batches,
        noise,
        weightDecay,
      )

      const engine = await openRun(on, checkpoint.dir, { seed: SEED, noise })
      try {
        const training = { batches: batches.map((b) => [b]), lr: LR, eps: EPS, weightDecay }
        expectSameSteps(await trainSteps(engine, training), reference, tolerance)
        const weights = await exportedTensors(engine)
        expect(farthest(weights, reference.theta)).toBeLessThan(tolerance.weight)
        expect(farthest(weights, start)).toBeGreaterThan(5e-4)
      } finally {
        await engine.close()
      }
    })
  })
})
