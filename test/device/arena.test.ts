// Activation buffers that share memory: where they lie, and that a run in which they share gives the
// bits of one in which each has its own, for every layout on every device.
// Alone: npx vitest run test/device/arena.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import type { Model } from '../../models/model.ts'
import { arenas, type PlanBuffer } from '../../scheduler/arena.ts'
import { VIEW_BYTES } from '../../src/util/units.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { openDevices } from '../helpers/devices.ts'
import { shapeOfBatches } from '../helpers/shape.ts'
import { randomOf } from '../helpers/random.ts'
import { exportedDigests, openRun, syntheticBatch, trainSteps } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const LAYOUTS = ['layouts/pre-norm-tied', 'layouts/post-norm-proj', 'gpt/gpt2-hub', 'gpt/nanogpt']

/** Elements rounded up to whole words. */
const wholeWords = (elements: number, bytes: number) =>
  Math.ceil((elements * bytes) / 4) * (4 / bytes)

describe('arenas', () => {
  it('hold every buffer whole, those side by side apart and at places that a device can bind', () => {
    for (let seed = 0; seed < 50; seed++) {
      const random = randomOf(seed)
      const [a, b, c] = [random.whole(1, 99), random.whole(1, 99), random.whole(1, 99)]
      const buffers: PlanBuffer[] = [
        { label: 'h', cols: random.whole(1, 99), memory: 0, col0: 0 },
        { label: 'f', cols: random.whole(1, 400), memory: 1, col0: 0 },
        { label: 'q', cols: a, memory: 1, col0: 0 },
        { label: 'k', cols: b, memory: 1, col0: a },
        { label: 'v', cols: c, memory: 1, col0: a + b },
      ]
      const rows = random.whole(1, 77)
      const elementBytes = random.pick([4, 2])
      const [h, f, ...others] = arenas(buffers, rows, elementBytes)
      expect(others).toEqual([])
      expect(h!.elements).toBe(wholeWords(rows * buffers[0]!.cols, elementBytes))
      const firstOf = new Map(f!.places.map(({ buffer, first }) => [buffer, first]))
      let next = 0
      for (const [i, { cols }] of buffers.entries()) {
        if (i === 0) continue
        const first = firstOf.get(i)!
        expect((first * elementBytes) % VIEW_BYTES).toBe(0)
        expect(first + rows * cols).toBeLessThanOrEqual(f!.elements)
        if (i === 1) {
          expect(first).toBe(0)
          continue
        }
        expect(first).toBeGreaterThanOrEqual(next)
        next = first + rows * cols
      }
      const widest = buffers.slice(1).reduce((x, y) => (y.cols > x.cols ? y : x))
      expect(f!.label).toBe(widest.label)
    }
  })
})

describe.each(openDevices())('on $name', ({ open }) => {
  it.each(LAYOUTS)('%s has the bits of a run whose buffers share nothing', async (layout) => {
    const dir = join(FIXTURES, layout)
    const device = await open()
    const train = async (of: (model: Model) => Model) => {
      const model = of(createModel((await openCheckpoint(dir)).config))
      const engine = await openRun({ device }, dir, { method: 'lozo', model })
      try {
        const batches = [0, 1].map((seed) => [syntheticBatch(2, 7, model.vocabSize, seed)])
        const journal = await trainSteps(engine, { batches, lr: 1e-3, eps: 1e-3, weightDecay: 0 })
        const { bytes } = engine.planFor(shapeOfBatches(2, batches.flat())).plan
        expect(device.ledger.now.activations).toBe(bytes.activations)
        const losses = journal.map((entry) => [entry.loss_plus, entry.loss_minus])
        return { activations: bytes.activations, losses, weights: await exportedDigests(engine) }
      } finally {
        await engine.close()
      }
    }
    try {
      const shared = await train((model) => model)
      const apart = await train((model) => ({
        ...model,
        buffers: model.buffers.map((buffer, memory) => ({ ...buffer, memory, col0: 0 })),
      }))
      expect(shared.losses).toEqual(apart.losses)
      expect(shared.weights).toEqual(apart.weights)
      expect(shared.activations).toBeLessThan(0.85 * apart.activations)
    } finally {
      await device.close()
    }
    expect(device.ledger.total()).toBe(0)
  })
})
