// Texts in packed batches: what a text's losses are depends neither on the texts beside it nor on how many
// passes they go in; evaluation and generation take as many texts at once as fit, in memory as planned, and
// leave a run as it is without them. On each device.
// Alone: npx vitest run test/device/packed-batches.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { packTexts } from '../../src/data/packing.ts'
import type { Example, Sequence } from '../../src/data/types.ts'
import type { Device } from '../../src/device/device.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { lossesOf, lossesOfTexts } from '../../src/engine/forward.ts'
import type { BatchShape } from '../../src/engine/shape.ts'
import { shapeOf } from '../../src/engine/split.ts'
import { createTexts } from '../../src/generate/cached-texts.ts'
import { generate, generateMany, type GenerateOptions } from '../../src/generate/generate.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import { evaluateExamples, evaluateTexts } from '../../src/train/evaluate.ts'
import { zoStep } from '../../src/train/step.ts'
import { parseBytes } from '../../src/util/units.ts'
import { openDevices } from '../helpers/devices.ts'
import { fixtureModel } from '../helpers/hashed.ts'
import { randomOf } from '../helpers/random.ts'
import { openRun, syntheticBatch, trainSteps, type OpenDevice } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const KiB = 2 ** 10

/** Texts of 2 to 16 tokens, many of which begin alike, some labelled at their end only. */
function manyTexts(count: number, seed: number): Sequence[] {
  const random = randomOf(seed)
  const texts: Sequence[] = []
  for (let i = 0; i < count; i++) {
    const from = random.pick([undefined, ...texts.slice(-3)])
    const kept = from ? from.inputIds.slice(0, random.whole(8, 14)) : []
    const added = Array.from({ length: random.whole(2, 12) }, () => random.whole(1, 60) - 1)
    const inputIds = [...kept, ...added].slice(0, 16)
    const first = random.pick([1, inputIds.length - 1])
    texts.push({ inputIds, labels: inputIds.map((id, t) => (t >= first ? id : -100)) })
  }
  return texts
}

/** A text of twelve tokens whose last one is labelled. */
const endingWith = (id: number): Sequence => {
  const inputIds = [...Array.from({ length: 11 }, (_, t) => 20 + t), id]
  return { inputIds, labels: inputIds.map((_, t) => (t === 11 ? id : -100)) }
}

const TEXTS = manyTexts(24, 1)
const MODELS = [
  ['layouts/post-norm-proj', { folds: false }],
  ['layouts/f16', { slabBytes: 4 * KiB, replayWindow: 8 }],
  ['layouts/pre-norm-tied', { slabBytes: KiB, method: 'lozo', rank: 1 }],
  ['layouts/untied', { method: 'kronzo' }],
  ['gpt/gpt2-hub', { slabBytes: 4 * KiB, method: 'lozo' }],
  ['gpt/nanogpt', { resident: 'all' }],
  ['decoders/llama3', { slabBytes: KiB, replayWindow: 8 }],
  ['decoders/gemma2', { method: 'lozo' }],
  ['decoders/gemma3_text', { method: 'kronzo' }],
  ['decoders/phi3', { resident: 'all' }],
] as const

/** The smallest budget that a pass of the shape fits into, as the refusal of a smaller one says it. */
function leastBudget(engine: Engine, shape: BatchShape): number {
  try {
    engine.planFor(shape, { budgetBytes: 1 })
  } catch (error) {
    return parseBytes(/smallest that works is (.+)$/.exec(String(error))![1]!)
  }
  throw new Error('a byte was enough')
}

/** Bytes that `body` uploads. */
async function uploaded(engine: Engine, body: () => Promise<unknown>): Promise<number> {
  const before = engine.counters.uploadBytes
  await body()
  return engine.counters.uploadBytes - before
}

describe.each(openDevices())('packed batches on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  it.each(MODELS)('give a text the bits that it has alone: %s', async (layout, options) => {
    const engine = await openRun(on, await fixtureModel(layout), options)
    try {
      // Owed updates and addends: what is replayed and projected for one text is so for each.
      const batches = [[syntheticBatch(2, 9, 60, 0)], [syntheticBatch(3, 6, 60, 1)]]
      await trainSteps(engine, { batches, lr: 1e-2, eps: 1e-3, weightDecay: 0 })
      const probes = { step: 2, list: engine.options.estimator.probes(1e-3) }
      const alone: Float64Array[][] = []
      for (const text of TEXTS) alone.push(await lossesOf(engine, packTexts([text]), probes))
      const [first] = alone.map(([ofProbe]) => [...ofProbe!])
      expect(new Set(alone.flatMap(([ofProbe]) => [...ofProbe!])).size).toBeGreaterThan(60)
      expect(first).not.toEqual([...alone[0]![1]!])
      for (let seed = 0; seed < 6; seed++) {
        const random = randomOf(seed)
        const some = Array.from({ length: random.whole(2, 24) }, () => random.whole(1, 24) - 1)
        const batch = packTexts(some.map((i) => TEXTS[i]!))
        const made = await lossesOf(engine, batch, probes)
        made.forEach((ofProbe, p) => {
          const own = some.flatMap((i) => [...alone[i]![p]!])
          expect([...ofProbe], `packing ${seed}, probe ${p}`).toEqual(own)
        })
      }
    } finally {
      await engine.close()
    }
  })

  it('go on after the last attention with the rows that are wanted alone', async () => {
    const rows: number[] = []
    const device = new Proxy(on.device, {
      get(target, key: keyof Device) {
        const value: unknown = target[key]
        if (typeof value !== 'function') return value
        if (key !== 'linear') return value.bind(target) as unknown
        return (...call: Parameters<Device['linear']>) => {
          rows.push(call[4].probes * call[4].rows)
          return target.linear(...call)
        }
      },
    })
    const engine = await openRun({ device }, join(FIXTURES, 'layouts/pre-norm-tied'))
    try {
      const batch = packTexts([TEXTS[0]!, ...[5, 6].map((id) => endingWith(id))])
      const { ids } = batch.packed
      expect(batch.rows.length).toBeLessThan(ids.length)
      const wanted = new Set(batch.rows).size
      await lossesOf(engine, batch, null)
      const blocks = engine.model.layers
      expect(rows).toEqual([
        ...Array<number>(6 * blocks - 3).fill(ids.length),
        ...Array<number>(3).fill(wanted),
      ])
    } finally {
      await engine.close()
    }
  })

  it('are evaluated in the fewest passes that fit, in memory as planned', async () => {
    const dir = join(FIXTURES, 'layouts/pre-norm-tied')
    const whole = shapeOf(packTexts(TEXTS), 1)
    const settings = { folds: false, slabBytes: 4 * KiB }
    const ample = await openRun(on, dir, settings)
    const weights = await uploaded(ample, () => lossesOfTexts(ample, TEXTS.slice(0, 1)))
    const expected = await evaluateTexts(ample, TEXTS)
    const least = leastBudget(ample, whole)
    const one = Math.max(...TEXTS.map((t) => leastBudget(ample, shapeOf(packTexts([t]), 1))))
    await ample.close()
    const passes: number[] = []
    for (const budgetBytes of [2 ** 40, least, (least + one) / 2, (least + 4 * one) / 5]) {
      const device = await test.open()
      try {
        const engine = await openRun({ device }, dir, { ...settings, budgetBytes })
        let evaluation: unknown
        const bytes = await uploaded(engine, async () => {
          evaluation = await evaluateTexts(engine, TEXTS)
        })
        expect(evaluation).toEqual(expected)
        passes.push(bytes / weights)
        expect(device.ledger.peak().totalBytes).toBe(engine.plannedPeakBytes)
        expect(device.ledger.peak().totalBytes).toBeLessThanOrEqual(budgetBytes)
        await engine.close()
      } finally {
        await device.close()
      }
      expect(device.ledger.total()).toBe(0)
    }
    expect(passes.every(Number.isInteger)).toBe(true)
    expect(passes.slice(0, 2)).toEqual([1, 1])
    expect(passes[2]).toBeGreaterThan(1)
    expect(passes[3]).toBeGreaterThanOrEqual(passes[2]!)
  })

  it('score options and calibrations as one by one, and stop when told to', async () => {
    const dir = join(FIXTURES, 'layouts/pre-norm-tied')
    const prompts = manyTexts(9, 7).map(({ inputIds }) => inputIds)
    const labelled = (prompt: readonly number[], answer: readonly number[]) => ({
      inputIds: [...prompt, ...answer],
      labels: [...prompt.map(() => -100), ...answer],
    })
    const examples = prompts.map((prompt, i): Example => {
      const options = [[5], [6, 8 + i], [7]].map((answer) => labelled(prompt, answer))
      const calibration = [[5], [6, 8 + i], [7]].map((answer) => labelled([3], answer))
      return { ...options[i % 3]!, options, answer: i % 3, calibration }
    })
    const engine = await openRun(on, dir, { folds: false })
    const progress: [number, number][] = []
    const onProgress = (...done: [number, number]) => void progress.push(done)
    const together = await evaluateExamples(engine, examples, { onProgress })
    const stop = new Error('stop')
    const halted = evaluateExamples(engine, examples, {
      onProgress: (done) => {
        if (done > 5) throw stop
      },
    })
    await expect(halted).rejects.toBe(stop)
    let [correct, optionLoss] = [0, 0]
    for (const example of examples) {
      const one = await evaluateExamples(engine, [example], {})
      correct += one.accuracy!
      optionLoss += one.option_loss!
    }
    await engine.close()
    expect(together.accuracy).toBeCloseTo(correct / 9, 12)
    expect(together.option_loss).toBeCloseTo(optionLoss / 9, 12)
    // 27 options and as many calibrations; progress is told slab by slab.
    expect(progress.length).toBeGreaterThan(10)
    expect(progress).toEqual(progress.toSorted(([a], [b]) => a - b))
    expect(progress.at(-1)).toEqual([54, 54])
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
          const batches = [packTexts(TEXTS.slice(3 * step, 3 * step + 4))]
          await zoStep(engine, { batches, step, lr: 1e-2, eps: 1e-3, weightDecay: 0, append })
          if (evaluate) evaluations.push(await evaluateTexts(engine, TEXTS))
        }
        evaluations.push(await evaluateTexts(engine, TEXTS))
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

  it('generate what each prompt does alone, as many at once as fit', async () => {
    const dir = join(FIXTURES, 'layouts/post-norm-proj')
    const prompts = [...manyTexts(6, 3).map(({ inputIds }) => inputIds), [9], [9]]
    const options: GenerateOptions = {
      maxNewTokens: 6,
      temperature: 0,
      topK: 0,
      topP: 1,
      seed: 3,
      eosIds: [],
    }
    const engine = await openRun(on, dir, { folds: false })
    const alone = async (more: Partial<GenerateOptions> = {}) => {
      const made: number[][] = []
      for (const prompt of prompts) {
        made.push(...(await generate(engine, [prompt], { ...options, ...more })))
      }
      return made
    }
    const free = await alone()
    const perToken = (await uploaded(engine, () => generate(engine, [[9]], options))) / 6
    // Texts that end early leave their places to nobody.
    const eosIds = [free[1]![1]!, free[4]![3]!]
    const stopped = await alone({ eosIds })
    expect(stopped).not.toEqual(free)
    await engine.close()

    const device = await test.open()
    try {
      const all = await openRun({ device }, dir, { folds: false })
      const { shape } = createTexts(all, prompts, 6)
      const { peakBytes } = all.planFor(shape).plan
      const least = leastBudget(all, shape)
      const one = leastBudget(all, createTexts(all, prompts.slice(0, 2), 6).shape)
      let made: number[][] = []
      const bytes = await uploaded(all, async () => {
        made = await generateMany(all, prompts, options)
      })
      expect(made).toEqual(free)
      expect(bytes).toBe(6 * perToken)
      expect(device.ledger.peak().totalBytes).toBe(peakBytes)
      expect(await generateMany(all, prompts, { ...options, eosIds })).toEqual(stopped)
      await all.close()
      const tight = await openRun({ device }, dir, { folds: false, budgetBytes: (least + one) / 2 })
      expect(await generateMany(tight, prompts, { ...options, eosIds })).toEqual(stopped)
      const more = await uploaded(tight, () => generateMany(tight, prompts, options))
      expect(more).toBeGreaterThan(6 * perToken)
      expect(more % perToken).toBe(0)
      await tight.close()
    } finally {
      await device.close()
    }
  })
})
