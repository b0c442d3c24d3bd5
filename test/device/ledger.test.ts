// Device memory as planned: the measured peak of a training run is the planned one, and nothing is
// left after close, also when a run fails in the middle of a pass; a failed step can be repeated.
// Alone: npx vitest run test/device/ledger.test.ts

import { copyFile, mkdir, readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Plan } from '../../scheduler/plan.ts'
import { openDevices, type TestDevice } from '../helpers/devices.ts'
import { hashedModel } from '../helpers/hashed.ts'
import { shapeOfBatches } from '../helpers/shape.ts'
import {
  onFresh,
  openRun,
  type RunOptions,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type Training,
} from '../helpers/runs.ts'
import { writeSyntheticOpt } from '../helpers/synthetic-opt.ts'

const TINY_OPT = fileURLToPath(new URL('../fixtures/tiny-opt/', import.meta.url))
const VOCAB = 1000
const MiB = 2 ** 20
const base = tempFolder()
const deep = join(base, 'deep')

beforeAll(() =>
  writeSyntheticOpt(deep, { hidden: 256, ffn: 512, vocab: VOCAB, layers: 6, heads: 4 }, 'F16'),
)

const training = (sizes: readonly (readonly [number, number])[], vocab = VOCAB): Training => ({
  batches: sizes.map(([rows, tokens], i) => [syntheticBatch(rows, tokens, vocab, i)]),
  lr: 1e-4,
  eps: 1e-3,
  weightDecay: 0,
})

/** A copy of the weights that a test may damage. */
async function copyOf(name: string): Promise<{ dir: string; file: string }> {
  const dir = join(base, name)
  await mkdir(dir, { recursive: true })
  for (const each of ['config.json', 'model.safetensors']) {
    await copyFile(join(TINY_OPT, each), join(dir, each))
  }
  return { dir, file: join(dir, 'model.safetensors') }
}

describe.each(openDevices())('memory of $name', (test: TestDevice) => {
  const cases: [string, RunOptions][] = [
    ['streamed', { resident: 'none', replayWindow: 2 }],
    ['resident', { resident: 'all', replayWindow: 2 }],
    ['in the smallest slabs', { resident: 'none', slabBytes: 1, replayWindow: 8 }],
  ]
  const LARGEST = shapeOfBatches(2, training([[2, 12]]).batches.flat())

  /** Trains with batches of at most LARGEST; peak and plan, which must agree in every category. */
  async function expectPlanned(options: RunOptions, dir = TINY_OPT, vocab = VOCAB): Promise<Plan> {
    let found: Plan | undefined
    await onFresh(test, async (on) => {
      const engine = await openRun(on, dir, options)
      try {
        await trainSteps(
          engine,
          training(
            [
              [2, 12],
              [1, 7],
              [2, 12],
            ],
            vocab,
          ),
        )
        const { plan } = engine.workingSet(LARGEST)
        const { totalBytes, bytes } = on.device.ledger.peak()
        expect(bytes).toEqual(plan.bytes)
        expect(totalBytes).toBe(plan.peakBytes)
        expect(totalBytes).toBeLessThanOrEqual(engine.options.budgetBytes)
        found = plan
      } finally {
        await engine.close()
      }
    })
    return found!
  }

  it.each(cases)('peaks at what the plan says, %s', async (_name, options) => {
    await expectPlanned(options)
  })

  it.each(['gemma3_text', 'phi3-longrope'])('peaks at what the plan says: %s', async (variant) => {
    const options = { resident: 'none', replayWindow: 2 } as const
    await expectPlanned(options, await hashedModel(variant), 61)
  })

  it('peaks at what the plan says, partly resident', async () => {
    const options = { resident: 'none', slabBytes: MiB, replayWindow: 2 } as const
    const { peakBytes, slabs } = await expectPlanned(options, deep)
    const budgetBytes = peakBytes + 2 * MiB
    const part = await expectPlanned({ ...options, resident: 'auto', budgetBytes }, deep)
    expect(part.residentSlabs).toBeGreaterThan(0)
    expect(part.residentSlabs).toBeLessThan(slabs.length)
  })

  it('peaks at the plan of the largest batch when batches grow', async () => {
    await onFresh(test, async (on) => {
      const engine = await openRun(on, TINY_OPT)
      try {
        const grown = training([
          [1, 4],
          [3, 8],
          [2, 16],
        ])
        await trainSteps(engine, grown)
        const { plan } = engine.workingSet(shapeOfBatches(2, grown.batches.flat()))
        expect(on.device.ledger.peak().totalBytes).toBe(plan.peakBytes)
      } finally {
        await engine.close()
      }
    })
  })

  it('is all given back after a file fails in mid-stream, and the step can be repeated', async () => {
    const { dir, file } = await copyOf(`${test.name}-truncated`)
    const whole = await readFile(file)
    const step = training([[2, 8]])
    await onFresh(test, async (on) => {
      const first = await openRun(on, dir)
      const unbroken = await trainSteps(first, step)
      await first.close()
      const engine = await openRun(on, dir, { slabBytes: MiB })
      try {
        await truncate(file, Math.floor(whole.length / 2))
        await expect(trainSteps(engine, step)).rejects.toThrow('model.safetensors')
        expect(engine.updateCount).toBe(0)
        await writeFile(file, whole)
        expect(await trainSteps(engine, step)).toEqual(unbroken)
      } finally {
        await engine.close()
      }
    })
  })

  it('is all given back after a fold that cannot write', async () => {
    await onFresh(test, async (on) => {
      const scratchDir = join(base, 'no such folder')
      const engine = await openRun(on, TINY_OPT, { replayWindow: 1, ramBytes: 1, scratchDir })
      try {
        await expect(
          trainSteps(
            engine,
            training([
              [1, 4],
              [1, 4],
            ]),
          ),
        ).rejects.toThrow(scratchDir)
      } finally {
        await engine.close()
      }
    })
  })

  it('is all given back when the device is closed first', async () => {
    await onFresh(test, async (on) => {
      const engine = await openRun(on, TINY_OPT)
      await trainSteps(engine, training([[1, 4]]))
      await on.device.close()
      await engine.close()
    })
  })
})
