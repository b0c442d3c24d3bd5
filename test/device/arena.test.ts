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
import { randomOf } from '../helpers/random.ts'
import { exportedDigests, openRun, syntheticBatch, trainSteps } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const LAYOUTS = ['layouts/pre-norm-tied', 'layouts/post-norm-proj', 'gpt/gpt2-hub', 'gpt/nanogpt']

/** Elements rounded up to whole words. */
const wholeWords = (elements: number, bytes: number) =>
  Math.ceil((elements * bytes) / 4) * (4 / bytes)

describe('arenas', () => {
  it('holds every buffer whole, guests side by side at places that a device can bind', () => {
    for (let seed = 0; seed < 50; seed++) {
      const random = randomOf(seed)
      const buffers: PlanBuffer[] = [
        { label: 'h', cols: random.whole(1, 99) },
        { label: 'f', cols: random.whole(1, 400) },
        ...['q', 'k', 'v'].map((label) => ({ label, cols: random.whole(1, 99), inside: 'f' })),
      ]
      const rows = random.whole(1, 77)
      const elementBytes = random.pick([4, 2])
      const [h, f, ...others] = arenas(buffers, rows, elementBytes)
      expect(others).toEqual([])
      expect(h!.elements).toBe(wholeWords(rows * buffers[0]!.cols, elementBytes))
      let next = 0
      for (const { label, cols, first } of f!.places) {
        expect((first * elementBytes) % VIEW_BYTES).toBe(0)
        expect(first + rows * cols).toBeLessThanOrEqual(f!.elements)
        if (label === 'f') continue
        expect(first).toBeGreaterThanOrEqual(next)
        next = first + rows * cols
      }
      expect(f!.places.map((p) => p.label)).toEqual(['f', 'q', 'k', 'v'])
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
        const { bytes } = engine.planFor({ probes: 2, batch: 2, tokens: 7 }).plan
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
        buffers: model.buffers.map(({ label, cols }) => ({ label, cols })),
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
