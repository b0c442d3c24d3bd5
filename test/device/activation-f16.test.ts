// Runs whose activations are f16, on each device: losses and projected gradients as near to f32's as the
// option promises, the same bits streamed and resident, memory as planned, values beyond f16's range.
// The option: activation-dtype.test.ts. Single operations: device.test.ts, device-factored.test.ts.
// Alone: npx vitest run test/device/activation-f16.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { withPrefix } from '../../models/prefix.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import type { Device, TensorDType } from '../../src/device/device.ts'
import { generate } from '../../src/generate/generate.ts'
import { createTexts } from '../../src/generate/cached-texts.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import { createSelection } from '../../src/methods/selection.ts'
import {
  PREFIX_FILE,
  prefixSelection,
  withPrefixFile,
  writePrefix,
} from '../../src/engine/prefix.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { TINY } from '../helpers/cli.ts'
import { filled, fixed, keeping, openDevices, scoped, WORKLOAD } from '../helpers/devices.ts'
import { shapeOfBatches } from '../helpers/shape.ts'
import { EVERYTHING } from '../helpers/method-defaults.ts'
import {
  exportedDigests,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'
import { needsHalves } from '../helpers/needs.ts'
import { writeSyntheticOpt } from '../helpers/synthetic-opt.ts'

const LAYOUTS = fileURLToPath(new URL('../fixtures/', import.meta.url))
const MiB = 2 ** 20
/** Full width, so that rows of fc1's result are widened in several runs, and several tiles. */
const WIDE = { hidden: 768, ffn: 3072, vocab: 4000, layers: 1, heads: 12, positions: 128 }
const folder = tempFolder()
const wide = join(folder, 'wide')

/** What the option's help and these tests promise: of the loss, and of |g|, both as root mean squares. */
const LOSS_BOUND = 2e-4
const GRADIENT_BOUND = 0.03
const EPS = 1e-3

beforeAll(() => writeSyntheticOpt(wide, WIDE, 'F16'))

const rms = (all: readonly number[]) =>
  Math.sqrt(all.reduce((sum, v) => sum + v * v, 0) / all.length)

describe.each(openDevices())('f16 activations on $name', (test) => {
  needsHalves(test)
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  const steps = async (
    dir: string,
    options: RunOptions,
    { batches = [[4, 48]], vocab = 1000, lr = 0, opened = on } = {},
  ) => {
    const engine = await openRun(opened, dir, options)
    try {
      const made = batches.map(([rows, tokens], i) => [syntheticBatch(rows!, tokens!, vocab, i)])
      const journal = await trainSteps(engine, { batches: made, lr, eps: EPS, weightDecay: 0 })
      const { plan } = engine.planFor(shapeOfBatches(2, made[0]!))
      return { journal, plan, ...(lr !== 0 && { weights: await exportedDigests(engine) }) }
    } finally {
      await engine.close()
    }
  }

  // Every pair of method, model and device.
  const compared =
    test.name === 'cpu' ? (['lozo', 'mezo-sgd'] as const) : (['mezo-sgd', 'lozo'] as const)
  it.each([
    [compared[0], 'the tiny model', () => TINY, 1000],
    [compared[1], 'the wide model', () => wide, WIDE.vocab],
  ] as const)(
    'gives the losses and projected gradients of f32, nearly: %s, %s',
    async (method, _, dir, vocab) => {
      const many = Array.from({ length: 4 }, () => [4, 48])
      const journals: JournalEntry[][] = []
      for (const activations of ['F32', 'F16'] as const) {
        const made = await steps(dir(), { method, activations }, { batches: many, vocab })
        journals.push(made.journal)
      }
      const [f32, f16] = journals as [JournalEntry[], JournalEntry[]]
      f32.forEach(({ loss_plus: loss }, i) => {
        expect(Math.abs(f16[i]!.loss_plus! - loss!) / loss!).toBeLessThan(LOSS_BOUND)
      })
      const gradients = f32.map((entry) => entry.projected_grad)
      const off = gradients.map((g, i) => f16[i]!.projected_grad - g)
      const size = rms(gradients)
      expect(rms(off) / size).toBeLessThan(GRADIENT_BOUND)
      expect(rms(off)).toBeGreaterThan(0)
      gradients.forEach((g, i) => {
        if (Math.abs(g) < 2 * GRADIENT_BOUND * size) return
        expect(Math.sign(f16[i]!.projected_grad)).toBe(Math.sign(g))
      })
    },
  )

  it.each(['layouts/post-norm-proj', 'gpt/gpt2-hub', 'gpt/nanogpt'])(
    'serves %s',
    async (layout) => {
      const dir = join(LAYOUTS, layout)
      const { vocabSize: vocab } = createModel((await openCheckpoint(dir)).config)
      const batches = [[3, 12]]
      const losses: number[] = []
      for (const activations of ['F32', 'F16'] as const) {
        const { journal } = await steps(dir, { activations }, { batches, vocab })
        losses.push(journal[0]!.loss_plus!)
      }
      expect(Math.abs(losses[0]! - losses[1]!) / losses[0]!).toBeLessThan(LOSS_BOUND)
    },
  )

  // Every pair of method, slab size and device.
  const [one, other] = test.name === 'cpu' ? [1, 16 * MiB] : [16 * MiB, 1]
  it.each([
    ['mezo-sgd', one],
    ['lozo', other],
    ['kronzo', one],
  ] as const)(
    '%s in slabs of %i bytes: streamed = resident, bit for bit',
    async (method, slabBytes) => {
      const options: RunOptions = { method, activations: 'F16', window: 2 }
      const run = {
        batches: [
          [2, 40],
          [1, 12],
          [2, 40],
        ],
        vocab: WIDE.vocab,
        lr: 1e-4,
      }
      const whole = await steps(wide, { ...options, resident: 'all' }, run)
      const streamed = await steps(wide, { ...options, slabBytes }, run)
      expect(streamed.plan.residentSlabs).toBe(0)
      expect(streamed.journal).toEqual(whole.journal)
      expect(streamed.weights).toEqual(whole.weights)
      expect(whole.weights).toBeDefined()
    },
  )

  it('takes the memory that the plan says: half of the activations', async () => {
    const bytes: number[] = []
    for (const activations of ['F32', 'F16'] as const) {
      const device = await test.open()
      try {
        const opened = { device }
        const run = { opened, batches: [[3, 33]], vocab: WIDE.vocab }
        const { plan } = await steps(wide, { activations, method: 'lozo' }, run)
        expect(device.ledger.peak().bytes).toEqual(plan.bytes)
        bytes.push(plan.bytes.activations)
      } finally {
        await device.close()
      }
      expect(device.ledger.total()).toBe(0)
    }
    expect(bytes[1]! / bytes[0]!).toBeGreaterThan(0.5)
    expect(bytes[1]! / bytes[0]!).toBeLessThan(0.51)
  })

  it('keeps the largest f16 for what is beyond it, and a NaN', async () => {
    const device = keeping('F16', on.device)
    device.reserve({ ...WORKLOAD, halfCols: 1024 })
    await scoped(device, async (d) => {
      const n = 70
      const data = (seed: number) =>
        Float32Array.from(
          { length: n },
          (_, i) => [60_000, -60_000, NaN, 1, 65_504][(i + seed) % 5]!,
        )
      const x = filled(d, 1, n, data(0))
      const y = filled(d, 1, n, data(0))
      await d.add(x, y, { probes: 1, rows: 1 })
      const expected = [65_504, -65_504, NaN, 2, 65_504]
      const found = await d.read(y, 0, 1)
      expect([...found]).toEqual(Array.from({ length: n }, (_, i) => expected[i % 5]))
      d.write(
        x,
        Float32Array.from({ length: n }, (_, i) => [1e30, -Infinity, Infinity][i % 3]!),
      )
      const written = await d.read(x, 0, 1)
      expect([...written]).toEqual(
        Array.from({ length: n }, (_, i) => (i % 3 === 1 ? -1 : 1) * 65_504),
      )
      // f32 rows are rounded on their way into f16 ones, as the rows of a prefix are.
      const rows = fixed(d, 2, 4, Float32Array.of(1, 1 / 3, 1e9, NaN, 2049, -1e-9, 0.1, -70_000))
      const z = filled(d, 4, 4, new Float32Array(16))
      await d.scatterRows(rows, Uint32Array.of(2, 0), z)
      const third = 1365 * 2 ** -12
      expect([...(await d.read(z, 2, 1))]).toEqual([1, third, 65_504, NaN])
      expect([...(await d.read(z, 0, 1))]).toEqual([2048, -0, 1638 * 2 ** -14, -65_504])
      expect([...(await d.read(z, 1, 1))]).toEqual([0, 0, 0, 0])
    })
  })

  it('keeps cached keys and values too: generation as with f32, memory as planned', async () => {
    const prompts = [[5, 17, 29], [40, 3, 8, 60, 2, 31], [9]]
    const options = {
      maxNewTokens: 8,
      temperature: 0,
      topK: 0,
      topP: 1,
      seed: 3,
      eosIds: [],
    }
    const texts: number[][][] = []
    const activations: number[] = []
    for (const dtype of ['F32', 'F16'] as const satisfies TensorDType[]) {
      const device = await test.open()
      const engine = await openRun({ ...on, device }, wide, { activations: dtype })
      try {
        texts.push(await generate(engine, prompts, options))
        const { plan } = engine.planFor(createTexts(engine, prompts, 8).shape)
        expect(device.ledger.peak().bytes.activations).toBe(plan.bytes.activations)
        activations.push(plan.bytes.activations)
      } finally {
        await engine.close()
        await device.close()
      }
    }
    expect(texts[1]).toEqual(texts[0])
    expect(activations[1]! / activations[0]!).toBeLessThan(0.51)
  })

  it('serves a prefix', async () => {
    const layout = join(LAYOUTS, 'layouts/pre-norm-tied')
    const checkpoint = await openCheckpoint(layout)
    const base = await openRun(on, layout)
    await writePrefix(base, 3, 5, join(folder, PREFIX_FILE))
    await base.close()
    const options = {
      checkpoint: await withPrefixFile(checkpoint, folder),
      model: withPrefix(createModel(checkpoint.config), 3),
      selection: prefixSelection(EVERYTHING),
    }
    const losses: number[] = []
    for (const activations of ['F32', 'F16'] as const) {
      const run = { batches: [[2, 9]], vocab: 90, lr: 1e-2 }
      const { journal } = await steps(layout, { ...options, activations }, run)
      expect(journal[0]!.projected_grad).not.toBe(0)
      losses.push(journal[0]!.loss_plus!)
    }
    expect(Math.abs(losses[0]! - losses[1]!) / losses[0]!).toBeLessThan(LOSS_BOUND)
  })

  it('serves probes that part in the middle and layers drawn by chance', async () => {
    const selection = createSelection({ seed: 1, layers: 3, trainOnly: ['*.layers.1.*'] })
    const run = { batches: [[2, 20]] }
    const [f32, f16] = await Promise.all(
      (['F32', 'F16'] as const).map(async (activations) => {
        const opened = { device: await test.open() }
        try {
          return await steps(TINY, { selection, activations, method: 'lozo' }, { ...run, opened })
        } finally {
          await opened.device.close()
        }
      }),
    )
    const [a, b] = [f32!.journal[0]!.loss_plus!, f16!.journal[0]!.loss_plus!]
    expect(Math.abs(a - b) / a).toBeLessThan(LOSS_BOUND)
  })
})

it('f16 activations on the cpu give the same bits on one thread and on two', async () => {
  const runOn = async (threads: number, method: string) => {
    const device: Device = await openCpu({ threads })
    const engine = await openRun({ device }, wide, {
      method,
      activations: 'F16',
    })
    try {
      const batches = [[syntheticBatch(2, 100, WIDE.vocab, 1)]]
      return await trainSteps(engine, { batches, lr: 0, eps: EPS, weightDecay: 0 })
    } finally {
      await engine.close()
      await device.close()
    }
  }
  for (const method of ['mezo-sgd', 'lozo']) {
    expect(await runOn(2, method)).toEqual(await runOn(1, method))
  }
})
