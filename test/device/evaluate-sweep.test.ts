// Evaluation and generation in sweeps: batches that share an upload give the bits of batches that do
// not, the weights go up once per sweep, and memory is as planned. On each device.
// Alone: npx vitest run test/device/evaluate-sweep.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Engine } from '../../src/engine/engine.ts'
import { evaluateBatches, evaluateExamples } from '../../src/train/evaluate.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import { labelledRows } from '../../src/train/loss.ts'
import { generate, generateInSweeps, type GenerateOptions } from '../../src/generate/generate.ts'
import { forward, forwardAll } from '../../src/engine/forward.ts'
import { zoStep } from '../../src/train/step.ts'
import { batchesPerSweep } from '../../src/engine/sweep.ts'
import {
  filled,
  matrixOf,
  openDevices,
  recipeOf,
  scoped,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { openRun, syntheticBatch, trainSteps, type OpenDevice } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const KiB = 2 ** 10

/** Seven batches of different sizes, with padding. */
const SIZES = [
  [2, 9],
  [3, 6],
  [1, 12],
  [3, 12],
  [2, 2],
  [3, 7],
  [1, 5],
] as const
const BATCHES = SIZES.map(([rows, tokens], i) => syntheticBatch(rows, tokens, 60, i))
const LARGEST = { batch: 3, tokens: 12 }

const lossPass = (batch: (typeof BATCHES)[number]) =>
  ({ input: batch, wanted: { kind: 'loss', ...labelledRows(batch) } }) as const

/** The losses of each batch, one pass of the weights for each. */
async function oneByOne(engine: Engine): Promise<Float64Array[]> {
  const losses: Float64Array[] = []
  for (const batch of BATCHES) {
    const { input, wanted } = lossPass(batch)
    losses.push(...(await forward(engine, input, null, wanted)))
  }
  return losses
}

/** Bytes that `body` uploads. */
async function uploaded(engine: Engine, body: () => Promise<unknown>): Promise<number> {
  const before = engine.counters.uploadBytes
  await body()
  return engine.counters.uploadBytes - before
}

describe.each(openDevices())('sweeps on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  it('use a slab of several tiles as often as it was committed for', async () => {
    const tiles = tilesOver(0, 96, 32)
    const m = matrixOf('F16', 40, tiles, recipeOf([0], 2))
    await scoped(on.device, async (d) => {
      d.reserve(WORKLOAD)
      const x = filled(d, 4, 40, values(160, 1))
      const y = d.tensor('activations', 'y', 4, 96)
      const slot = d.slot('slots', 'slot', m.bytes.length)
      const at = { probes: 1, rows: 4 }
      const made: Float32Array[] = []
      for (const uses of [1, 3]) {
        ;(await d.stage(slot, m.bytes.length)).set(m.bytes)
        d.commit(slot, { name: 'w', ...m }, uses)
        for (let use = 0; use < uses; use++) {
          await d.linear(x, slot, null, y, at)
          made.push(await d.read(y, 0, 4))
        }
      }
      expect(made[0]!.some((v) => v !== 0)).toBe(true)
      for (const each of made) expect(each).toEqual(made[0])
      await expect(d.linear(x, slot, null, y, at)).rejects.toThrow(/commit/)
    })
  })

  it.each([
    ['layouts/post-norm-proj', { folds: false }],
    ['layouts/f16', { slabBytes: 4 * KiB, replayWindow: 8 }],
    ['layouts/pre-norm-tied', { slabBytes: KiB, method: 'lozo' }],
    ['layouts/untied', { method: 'kronzo' }],
    ['gpt/gpt2-hub', { slabBytes: 4 * KiB, method: 'lozo' }],
    ['gpt/nanogpt', { resident: 'all' }],
  ] as const)('have the bits of single batches: %s', async (layout, options) => {
    const engine = await openRun(on, join(FIXTURES, layout), options)
    try {
      // Owed updates and addends: what is replayed and projected for one batch is so for each.
      const batches = [[BATCHES[0]!], [BATCHES[1]!]]
      await trainSteps(engine, { batches, lr: 1e-2, eps: 1e-3, weightDecay: 0 })
      const expected = await oneByOne(engine)
      const made = await forwardAll(engine, BATCHES.map(lossPass), null)
      expect(made.map(([losses]) => losses)).toEqual(expected)
      expect(new Set(expected.flatMap((losses) => [...losses])).size).toBeGreaterThan(50)
      // And a step after it is a step.
      const [entry] = await trainSteps(engine, {
        batches: [batches[0]!],
        lr: 0,
        eps: 1e-3,
        weightDecay: 0,
      })
      expect(entry!.skipped).toBeUndefined()
    } finally {
      await engine.close()
    }
  })

  it('upload the weights once per sweep, as many batches as fit, in memory as planned', async () => {
    const dir = join(FIXTURES, 'layouts/pre-norm-tied')
    const engine = await openRun(on, dir, { folds: false, slabBytes: 4 * KiB })
    const weights = await uploaded(engine, () => oneByOne(engine)).then((n) => n / BATCHES.length)
    const peakOf = (sweep: number) =>
      engine.planFor({ probes: 1, ...LARGEST, sweep }).plan.peakBytes
    const peaks = [3, 4].map(peakOf)
    const expected = await evaluateBatches(engine, BATCHES)
    await engine.close()
    expect(weights).toBeGreaterThan(0)

    for (const [budgetBytes, sweep] of [
      [peaks[0]!, 3],
      [peaks[1]! - 1, 3],
      [peaks[1]!, 4],
      [2 ** 40, 7],
    ] as const) {
      const device = await test.open()
      try {
        const small = await openRun({ device }, dir, {
          folds: false,
          slabBytes: 4 * KiB,
          budgetBytes,
        })
        const chosen = batchesPerSweep(small.planFor, budgetBytes, LARGEST, BATCHES.length)
        expect(chosen).toBe(sweep)
        let evaluation: unknown
        const bytes = await uploaded(small, async () => {
          evaluation = await evaluateBatches(small, BATCHES)
        })
        expect(evaluation).toEqual(expected)
        expect(bytes).toBe(Math.ceil(BATCHES.length / sweep) * weights)
        const peak = device.ledger.peak()
        const { plan } = small.planFor({ probes: 1, ...LARGEST, sweep })
        expect(peak.bytes).toEqual(plan.bytes)
        expect(peak.totalBytes).toBe(small.plannedPeakBytes)
        expect(peak.totalBytes).toBeLessThanOrEqual(budgetBytes)
        await small.close()
      } finally {
        await device.close()
      }
      expect(device.ledger.total()).toBe(0)
    }
  })

  it('score options and calibrations as batch by batch, and stop when told to', async () => {
    const dir = join(FIXTURES, 'layouts/pre-norm-tied')
    const sequence = (length: number, seed: number) => {
      const inputIds = Array.from({ length }, (_, i) => (seed * 31 + i * 17) % 60)
      return { inputIds, labels: inputIds.map((id, i) => (i > length - 3 ? id : -100)) }
    }
    const examples = Array.from({ length: 9 }, (_, i) => {
      const options = [sequence(5 + (i % 4), i), sequence(8, i + 50)]
      const calibration = [sequence(4, 90), sequence(4, 91)]
      return { ...options[i % 2]!, options, answer: i % 2, calibration }
    })
    const options = { batchSize: 2, padId: 1, padTo: 'left' } as const
    const engine = await openRun(on, dir, { folds: false })
    const { peakBytes } = engine.planFor({ probes: 1, batch: 2, tokens: 8 }).plan
    const progress: [number, number][] = []
    const onProgress = (...done: [number, number]) => void progress.push(done)
    const swept = await evaluateExamples(engine, examples, { ...options, onProgress })
    const stop = new Error('stop')
    const halted = evaluateExamples(engine, examples, {
      ...options,
      onProgress: (done) => {
        if (done > 5) throw stop
      },
    })
    await expect(halted).rejects.toBe(stop)
    expect(await evaluateExamples(engine, examples, options)).toEqual(swept)
    await engine.close()
    // 18 options and 2 calibration prompts; progress is told slab by slab.
    expect(progress.length).toBeGreaterThan(20)
    expect(progress).toEqual(progress.toSorted(([a], [b]) => a - b))
    expect(progress.at(-1)).toEqual([20, 20])

    const tight = await openRun(on, dir, { folds: false, budgetBytes: peakBytes })
    expect(batchesPerSweep(tight.planFor, peakBytes, { batch: 2, tokens: 8 }, 10)).toBe(1)
    expect(await evaluateExamples(tight, examples, options)).toEqual(swept)
    await tight.close()
  })

  it('leave a run as it is without them', async () => {
    const dir = join(FIXTURES, 'layouts/f16')
    const run = async (evaluate: boolean) => {
      const engine = await openRun(on, dir, { slabBytes: 4 * KiB, replayWindow: 2 })
      const journal: JournalEntry[] = []
      const evaluations: unknown[] = []
      const append = async (entry: JournalEntry) => void journal.push(entry)
      try {
        for (let step = 0; step < 5; step++) {
          const batches = [BATCHES[step]!]
          await zoStep(engine, { batches, step, lr: 1e-2, eps: 1e-3, weightDecay: 0, append })
          if (evaluate) evaluations.push(await evaluateBatches(engine, BATCHES))
        }
        evaluations.push(await evaluateBatches(engine, BATCHES))
      } finally {
        await engine.close()
      }
      return { journal, evaluations }
    }
    const [without, with_] = [await run(false), await run(true)]
    expect(with_.journal).toEqual(without.journal)
    expect(with_.evaluations.at(-1)).toEqual(without.evaluations[0])
    expect(with_.evaluations[0]).not.toEqual(with_.evaluations[4])
  })

  it('generate what batches by themselves do, one upload per token and sweep', async () => {
    const dir = join(FIXTURES, 'layouts/post-norm-proj')
    const prompts = [
      [
        [5, 17, 29],
        [40, 3, 8, 60, 2],
      ],
      [[9], [7, 7]],
      [[11, 50, 46, 12]],
    ]
    const options: GenerateOptions = {
      maxNewTokens: 6,
      temperature: 0.8,
      topK: 0,
      topP: 1,
      seed: 3,
      padId: 1,
      eosIds: [],
    }
    const engine = await openRun(on, dir, { folds: false })
    const oneByOne = async (more = {}) => {
      const made: number[][][] = []
      for (const batch of prompts) made.push(await generate(engine, batch, { ...options, ...more }))
      return made
    }
    let free: number[][][] = []
    const alone = await uploaded(engine, async () => (free = await oneByOne()))
    // Batches whose texts end early leave their places to nobody.
    const eosIds = [free[1]![0]![1]!, free[1]![1]![2]!, free[0]![1]![4]!]
    const stopped = await oneByOne({ eosIds })
    expect(stopped).not.toEqual(free)
    await engine.close()

    const device = await test.open()
    try {
      const fresh = { device }
      const swept = await openRun(fresh, dir, { folds: false })
      const shape = { probes: 1, batch: 2, tokens: 5, keys: 11 }
      const peaks = [2, 3].map((sweep) => swept.planFor({ ...shape, sweep }).plan.peakBytes)
      let made: number[][][] = []
      const bytes = await uploaded(swept, async () => {
        made = await generateInSweeps(swept, prompts, options)
      })
      expect(made).toEqual(free)
      expect(bytes).toBe(alone / prompts.length)
      expect(device.ledger.peak().totalBytes).toBe(peaks[1])
      expect(await generateInSweeps(swept, prompts, { ...options, eosIds })).toEqual(stopped)
      await swept.close()
      // Room for two of the three batches.
      const tight = await openRun(fresh, dir, { folds: false, budgetBytes: peaks[0]! })
      expect(await generateInSweeps(tight, prompts, { ...options, eosIds })).toEqual(stopped)
      expect(await uploaded(tight, () => generateInSweeps(tight, prompts, options))).toBe(
        (2 * alone) / 3,
      )
      await tight.close()
    } finally {
      await device.close()
    }
  })
})
