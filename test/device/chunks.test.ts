// Batches that exceed the budget, or what a device allocates at once: the choice of passes, runs in several
// passes against the same run in one, what they stream and hold, and the answers of `zo2 plan`.
// Alone: npx vitest run test/device/chunks.test.ts

import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Plan } from '../../scheduler/plan.ts'
import { bench } from '../../src/plan/bench.ts'
import { parseConfig } from '../../src/config/options.ts'
import { evenTexts, packBatch, packTexts } from '../../src/data/packing.ts'
import { inPasses, passesFor, shapeOf, splitOf } from '../../src/engine/split.ts'
import type { Engine } from '../../src/engine/engine.ts'
import type { Device } from '../../src/device/device.ts'
import { bindingBytes } from '../../src/device/webgpu/device.ts'
import { UserError } from '../../src/util/errors.ts'
import { evaluateBatches } from '../../src/train/evaluate.ts'
import { planReport } from '../../src/plan/report.ts'
import { silent } from '../../src/util/console.ts'
import { syntheticModel } from '../../src/engine/load.ts'
import { parseBytes } from '../../src/util/units.ts'
import type { BatchShape } from '../../src/engine/shape.ts'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { openDevices, type TestDevice } from '../helpers/devices.ts'
import { evenShape } from '../helpers/shape.ts'
import {
  exportedDigests,
  onFresh,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type RunOptions,
} from '../helpers/runs.ts'
import { writeSyntheticOpt } from '../helpers/synthetic-opt.ts'

async function onDevice<R>({ open }: TestDevice, use: (device: Device) => R): Promise<R> {
  const device = await open()
  try {
    return use(device)
  } finally {
    await device.close()
  }
}

const SHAPE = { hidden: 64, ffn: 256, vocab: 300, layers: 2, heads: 4 }
const [B, T] = [5, 24]
const dir = join(tempFolder(), 'opt')
beforeAll(() => writeSyntheticOpt(dir, SHAPE, 'F16'))

describe('a split', () => {
  /** A planner for which a pass of texts of one row takes `probes * rows` bytes and streams 100. */
  const planner = (budget: number) => {
    const asked: string[] = []
    const planFor = ({ probes, rows }: BatchShape) => {
      asked.push(`${probes}x${rows}`)
      if (probes * rows > budget) throw new UserError(`${probes} x ${rows} is too much`)
      return { slabs: [{ resident: false, bytes: 100 }] } as unknown as Plan
    }
    const batchOf = (texts: number) => packTexts(evenTexts(texts, 2))
    return {
      asked,
      split: (probes: number, texts: number) => splitOf(planFor, batchOf(texts), probes),
    }
  }

  it('asks once where all fits', () => {
    const { asked, split } = planner(32)
    expect(split(2, 16)).toMatchObject({ probes: 2, texts: 16, passes: 1 })
    expect(asked).toEqual(['2x16'])
  })

  it('takes the fewest passes, in equal parts', () => {
    for (const probes of [1, 2, 4, 6]) {
      for (const texts of [1, 2, 5, 7, 16]) {
        for (let budget = 1; budget < probes * texts; budget++) {
          const found = planner(budget).split(probes, texts)
          let fewest = Infinity
          for (let p = 1; p <= probes; p++) {
            for (let b = 1; b <= texts; b++) {
              if (p * b > budget) continue
              fewest = Math.min(fewest, Math.ceil(probes / p) * Math.ceil(texts / b))
            }
          }
          expect(found.passes, `${probes} x ${texts} in ${budget}`).toBe(fewest)
          expect(found.probes * found.shape.rows).toBeLessThanOrEqual(budget)
          expect(found.passes).toBe(Math.ceil(probes / found.probes) * found.parts.length)
          expect(found.parts.flatMap((part) => part.texts)).toEqual(evenTexts(texts, 2))
        }
      }
    }
  })

  it('says what the smallest needs where not even that fits', () => {
    expect(() => planner(0).split(2, 16)).toThrow('1 x 1 is too much')
  })
})

describe('an evaluation', () => {
  const texts = Array.from({ length: 40 }, (_, i) => {
    const inputIds = Array.from({ length: 12 + (i % 9) }, (_, t) => (t < 10 ? t : i + t))
    return { inputIds, labels: inputIds.map((id, t) => (t > 9 ? id : -100)) }
  })
  const whole = packTexts(texts)

  it('goes in as many passes as stream least, and where weights stay in as many as are worth it', () => {
    const many = { ...shapeOf(whole, 1), rows: 10_000 }
    const passes = (streamed: number, most: number) =>
      passesFor(
        {
          heldRows: 0,
          planFor: ({ rows }) => {
            if (rows > most) throw new UserError('too many')
            const slabs = [{ resident: streamed === 0, bytes: 100 }]
            return { plan: { slabs } as unknown as Plan, held: false }
          },
        },
        many,
      )
    expect(passes(100, 20_000)).toBe(1)
    expect(passes(100, 6000)).toBe(2)
    expect(passes(100, 1300)).toBe(8)
    expect(passes(100, 100)).toBe(128)
    expect(passes(0, 20_000)).toBe(16) // 625 rows each
  })

  it('is all texts in their order, those of a part with what they share', () => {
    for (const passes of [1, 2, 3, 7]) {
      const parts = inPasses(whole, passes)
      expect(parts.flatMap((part) => part.texts)).toEqual(texts)
      expect(parts.length).toBeGreaterThanOrEqual(passes)
      expect(parts.length).toBeLessThanOrEqual(2 * passes)
      for (const part of parts) expect(part.packed.segments[0]).toEqual({ row0: 0, rows: 10 })
    }
  })
})

describe.each(openDevices())('batches in several passes on $name', (test) => {
  /** On a device of its own, whose peak is this run's. */
  const withRun = async <R>(options: RunOptions, body: (engine: Engine) => Promise<R>) => {
    let made: R
    await onFresh(test, async (on) => {
      const engine = await openRun(on, dir, options)
      try {
        made = await body(engine)
      } finally {
        await engine.close()
      }
    })
    return made!
  }
  /** Enough for a pass of so many probes and of texts of full length, not for all of a batch. */
  const budgetFor = (options: RunOptions, probes: number, batch: number) =>
    withRun(options, async (engine) => {
      const limits = { budgetBytes: Infinity, resident: 'none' } as const
      return engine.planFor(evenShape(probes, batch, T), limits).plan.peakBytes
    })
  const batches = [0, 1, 2].map((seed) => [syntheticBatch(B, T, SHAPE.vocab, seed)])
  const trained = (options: RunOptions) =>
    withRun(options, async (engine) => {
      const journal = await trainSteps(engine, { batches, lr: 1e-3, eps: 1e-3, weightDecay: 0 })
      const { uploadBytes } = engine.counters
      const evaluation = await evaluateBatches(engine, batches.flat())
      const peakBytes = engine.device.ledger.peak().totalBytes
      const losses = journal.map(({ loss_plus, loss_minus, projected_grad }) => [
        loss_plus,
        loss_minus,
        projected_grad,
      ])
      const result = { losses, evaluation, weights: await exportedDigests(engine) }
      const planned = engine.plannedPeakBytes
      return { result, uploadBytes, peakBytes, planned }
    })

  it.each([
    [{ method: 'mezo-sgd' }, 1, 5],
    [{ method: 'mezo-sgd', probes: 2 }, 2, 2],
    [{ method: 'lozo' }, 1, 3],
    [{ method: 'lozo', probes: 2 }, 2, 3],
    [{ method: 'kronzo' }, 1, 1],
  ] as const)('give the bits of one pass: %o, %i probes x %i sequences', async (method, p, b) => {
    const budgetBytes = await budgetFor(method, p, b)
    const probes = 2 * ('probes' in method ? method.probes : 1)
    const passes = await withRun({ ...method, budgetBytes }, async (engine) => {
      return engine.split(packBatch(batches[0]![0]!), probes).passes
    })
    expect(passes).toBeGreaterThan(1)
    expect(passes).toBeLessThanOrEqual(Math.ceil(probes / p) * Math.ceil(B / b))
    const [one, several] = [await trained(method), await trained({ ...method, budgetBytes })]
    expect(several.result).toEqual(one.result)
    expect(several.uploadBytes).toBe(passes * one.uploadBytes)
    expect(several.peakBytes).toBe(several.planned)
    expect(several.peakBytes).toBeLessThanOrEqual(budgetBytes)
    expect(one.peakBytes).toBeGreaterThan(budgetBytes)
  })

  it('keep their working set from step to step, and short batches take fewer', async () => {
    const budgetBytes = await budgetFor({}, 1, 2)
    await withRun({ budgetBytes }, async (engine) => {
      const at = { lr: 1e-3, eps: 1e-3, weightDecay: 0 }
      await trainSteps(engine, { ...at, batches: batches.slice(0, 1) })
      const set = engine.workingSet(evenShape(1, 1, 2))
      await trainSteps(engine, { ...at, batches: batches.slice(1), first: 1 })
      expect(engine.workingSet(evenShape(1, 1, 2))).toBe(set)
      const passes = (tokens: number) => engine.split(packTexts(evenTexts(B, tokens)), 2).passes
      expect(passes(3)).toBeLessThan(passes(T))
    })
  })

  it('refuse a budget below one sequence of one probe', async () => {
    const budgetBytes = (await budgetFor({}, 1, 1)) / 4
    await withRun({ budgetBytes }, async (engine) => {
      const step = trainSteps(engine, { batches, lr: 1e-3, eps: 1e-3, weightDecay: 0 })
      await expect(step).rejects.toThrow(/--memory .* is too small .* smallest that works/)
    })
  })
})

describe('a batch whose buffers exceed the largest that a device makes', () => {
  const webgpu = openDevices().find(({ name }) => name === 'webgpu')!
  const train = async (options: RunOptions, most: number, model = dir, batch = [B, T] as const) => {
    const device = await webgpu.open()
    try {
      const memory = { ...device.memory, maxAllocationBytes: most }
      const engine = await openRun({ device: { ...device, memory } }, model, options)
      try {
        const batches = [[syntheticBatch(...batch, SHAPE.vocab, 1)]]
        const { passes } = engine.split(packBatch(batches[0]![0]!), 2)
        const journal = await trainSteps(engine, { batches, lr: 1e-3, eps: 1e-3, weightDecay: 0 })
        return { passes, journal, weights: await exportedDigests(engine) }
      } finally {
        await engine.close()
      }
    } finally {
      await device.close()
      expect(device.ledger.total()).toBe(0)
    }
  }

  it.each(['mezo-sgd', 'lozo', 'kronzo'])('is cut, to the bits of one pass: %s', async (method) => {
    const one = await train({ method }, Infinity)
    const several = await train({ method }, 160_000)
    expect([one.passes, several.passes > 1]).toEqual([1, true])
    expect(several).toEqual({ ...one, passes: several.passes })
  })

  it('runs on a real adapter', async () => {
    const wide = {
      hidden: 16,
      ffn: 2 ** 14,
      vocab: SHAPE.vocab,
      layers: 1,
      heads: 2,
      positions: 1024,
    }
    const model = join(dir, '..', 'wide')
    await writeSyntheticOpt(model, wide, 'F16')
    const most = await onDevice(webgpu, ({ memory }) => memory.maxAllocationBytes)
    const activations = 4 * 2 * 2 * 1024 * wide.ffn // 256 MiB
    const run = await train({ method: 'lozo', budgetBytes: 2 ** 32 }, most, model, [2, 1024])
    expect(run.passes).toBe(activations > most ? 2 : 1)
    expect(run.journal[0]!.projected_grad).not.toBe(0)
  })

  it('is refused with one sentence where not even one sequence fits', async () => {
    await expect(train({}, 80_000, dir, [2, 100])).rejects.toThrow(
      /^scratch for logits of 1 probe x 99 tokens takes 116 KiB, and this device binds at most 78\.1 KiB at once: use fewer tokens \(--max-length\), or --device cpu$/,
    )
  })
})

describe('zo2 plan for an adapter', () => {
  const plan = (source: string, shape: object) =>
    planReport(source, parseConfig({ method: 'lozo', memory: 2 ** 32, steps: 1, ...shape }), silent)

  it('cuts what the adapter cannot bind, for one that it does not have as WebGPU promises', async () => {
    const shape = { batchSize: 8, maxLength: 1024 }
    const bound = await bindingBytes(TEST_ADAPTER)
    for (const [adapter, most] of [
      [TEST_ADAPTER, bound],
      ['no such adapter', 128 * 2 ** 20],
    ] as const) {
      const { json, lines } = await plan('synthetic:opt-125m/1', { ...shape, adapter })
      const passes = most < 192 * 2 ** 20 ? 2 : 1 // the logits of 2 x 8 x 1024 rows
      expect([adapter, json.passes_per_step]).toEqual([adapter, passes])
      expect(json.one_pass_device_peak_bytes).toBeNull()
      if (passes > 1)
        expect(lines.join('\n')).toMatch(/2 passes per step.*no --memory makes it one/)
    }
  })

  it('says in one sentence what cannot run there', async () => {
    const large = plan('synthetic:opt-13b/1', { maxLength: 2048, batchSize: 1, adapter: 'none' })
    await expect(large).rejects.toThrow(
      /^activations "fc1" of 1 probe x 2047 tokens takes 160 MiB, and this device binds at most 128 MiB at once: use fewer tokens/,
    )
  })
})

describe('zo2 plan', () => {
  it('says how many passes a step takes, and what they read is what a run reads', async () => {
    const base = {
      device: 'cpu',
      batchSize: 2,
      maxLength: 128,
      method: 'lozo',
      resident: 'none',
      steps: 1,
    } as const
    const source = 'synthetic:opt-350m/1'
    const plan = (memory: number) => planReport(source, parseConfig({ ...base, memory }), silent)
    const ample = await plan(2 ** 32)
    expect(ample.json).toMatchObject({ passes_per_step: 1, one_pass_device_peak_bytes: null })
    expect(ample.lines.join('\n')).not.toMatch(/passes/)
    const refused = await plan(2 ** 20).catch((error: unknown) => String(error))
    const memory = parseBytes(/smallest that works is (.+)$/.exec(String(refused))![1]!)
    const tight = await plan(memory)
    const { passes_per_step: passes, one_pass_device_peak_bytes: needed } = tight.json
    expect(passes).toBeGreaterThan(1)
    expect(tight.lines.join('\n')).toMatch(
      new RegExp(`${passes} passes per step, . probes? x . texts? each.*one pass with --memory`),
    )
    expect((await plan(needed!)).json.passes_per_step).toBe(1)
    expect(await plan(memory - 2 ** 20).catch(String)).toMatch(/smallest that works/)
    expect(tight.json.read_bytes).toBe(passes * ample.json.read_bytes)
    const model = syntheticModel({ size: 'opt-350m', layers: 1 })
    const run = await bench(
      model,
      parseConfig({ ...base, memory, steps: 1 }),
      silent,
      new AbortController().signal,
    )
    expect(run.passes_per_step).toBe(passes)
    expect(run.device_peak_bytes).toBe(tight.json.device_peak_bytes)
    expect(Math.abs(run.read_bytes / tight.json.read_bytes - 1)).toBeLessThan(0.05)
  })
})
