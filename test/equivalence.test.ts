// Same bits whatever the memory: MeZO-SGD streamed and resident, with any slab size, slot count,
// replay window, overlay place, file format, thread count and upload strategy gives the same losses
// at every step and the same exported weights, on each device.
// Alone: npx vitest run test/equivalence.test.ts

import { copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Batch } from '../src/data/types.ts'
import { openCpu } from '../src/device/cpu/device.ts'
import type { Device } from '../src/device/device.ts'
import { openWebgpu } from '../src/device/webgpu/device.ts'
import type { JournalEntry } from '../src/journal.ts'
import type { DType } from '../src/weights/types.ts'
import { openDevices, type TestDevice } from './helpers/devices.ts'
import {
  exportedDigests,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from './helpers/runs.ts'
import { SEVERAL_TILES, writeSyntheticOpt } from './helpers/synthetic-opt.ts'

const TILE = 4 * 2 ** 20 // a compute tile in f32, which is how a training run plans its slabs
const STEPS = 3
const LAYOUTS = fileURLToPath(new URL('./fixtures/layouts/', import.meta.url))
const folder = tempFolder()
const dirOf = (dtype: DType) => join(folder, dtype)

beforeAll(async () => {
  for (const dtype of ['F16', 'F32'] as const) {
    await writeSyntheticOpt(dirOf(dtype), SEVERAL_TILES, dtype)
  }
})

interface Result {
  readonly losses: readonly (readonly (number | null)[])[]
  readonly weights: Readonly<Record<string, string>>
}

const lossesOf = (journal: readonly JournalEntry[]) =>
  journal.map((entry) => [entry.loss_plus, entry.loss_minus])

/** Steps of batches of changing size on the checkpoint in `dir`; `vocab` bounds the token ids. */
async function train(
  opened: OpenDevice,
  dir: string,
  options: RunOptions = {},
  { weightDecay = 0, steps = STEPS, vocab = SEVERAL_TILES.vocab } = {},
): Promise<Result> {
  const engine = await openRun(opened, dir, options)
  try {
    const batches = Array.from({ length: steps }, (_, i) => [
      syntheticBatch(1 + (i % 2), 5, vocab, i),
    ])
    const journal = await trainSteps(engine, { batches, lr: 1e-3, eps: 1e-3, weightDecay })
    expect(journal.every((entry) => entry.projected_grad !== 0)).toBe(true)
    return { losses: lossesOf(journal), weights: await exportedDigests(engine) }
  } finally {
    await engine.close()
  }
}

/** Opens a device once for a group of tests; made only when a test asks, as results are. */
function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => (made ??= make())
}

/** The smallest budget whose plan has 2 slots; too small for 3. */
async function twoSlotBudget(opened: OpenDevice, options: RunOptions): Promise<number> {
  const engine = await openRun(opened, dirOf('F16'), options)
  try {
    const { plan } = engine.workingSet({ probes: 2, batch: 2, tokens: 5 })
    expect(plan.slots).toBe(3)
    return plan.peakBytes - 1
  } finally {
    await engine.close()
  }
}

describe.each(openDevices())('MeZO-SGD on $name', (test: TestDevice) => {
  let device: Device
  let on: OpenDevice
  beforeAll(async () => {
    device = await test.open()
    on = { device, memory: test.memory }
  })
  afterAll(() => device?.close())

  const streamed = {
    F16: lazily(() => train(on, dirOf('F16'))),
    F32: lazily(() => train(on, dirOf('F32'))),
  }

  // With a window of 1 or 2, folds change what resident slabs must hold.
  it.each([
    ['F16', 4],
    ['F16', 1],
    ['F32', 2],
  ] as const)('gives the same bits resident as streamed, %s, window %d', async (dtype, window) => {
    const resident = await train(on, dirOf(dtype), { resident: 'all', replayWindow: window })
    expect(resident).toEqual(await streamed[dtype]())
  })

  it('gives the same bits with some slabs resident', async () => {
    const options = { resident: 'auto', slabBytes: TILE } as const
    const engine = await openRun(on, dirOf('F16'), { ...options, resident: 'none' })
    const { peakBytes } = engine.workingSet({ probes: 2, batch: 2, tokens: 5 }).plan
    await engine.close()
    const budgetBytes = peakBytes + 2 * TILE
    const check = await openRun(on, dirOf('F16'), { ...options, budgetBytes })
    const { plan } = check.workingSet({ probes: 2, batch: 2, tokens: 5 })
    await check.close()
    expect(plan.residentSlabs).toBeGreaterThan(0)
    expect(plan.residentSlabs).toBeLessThan(plan.slabs.length)
    const part = await train(on, dirOf('F16'), { ...options, budgetBytes, replayWindow: 2 })
    expect(part).toEqual(await streamed.F16())
  })

  // One tile (a smaller request is rounded up), two, and three or all as above.
  it.each([1, 1.5 * TILE])('gives the same bits in slabs of %d bytes', async (n) => {
    expect(await train(on, dirOf('F16'), { slabBytes: n })).toEqual(await streamed.F16())
  })

  it('gives the same bits through two slots as through three', async () => {
    const budgetBytes = await twoSlotBudget(on, { slabBytes: TILE })
    const engine = await openRun(on, dirOf('F16'), { slabBytes: TILE, budgetBytes })
    expect(engine.workingSet({ probes: 2, batch: 2, tokens: 5 }).plan.slots).toBe(2)
    await engine.close()
    const two = await train(on, dirOf('F16'), { slabBytes: TILE, budgetBytes })
    expect(two).toEqual(await streamed.F16())
  })

  it.each([0, 0.1])('gives the same bits for replay windows 1, 2 and 16, decay %d', async (wd) => {
    const run = (replayWindow: number, ramBytes: number, dtype: DType) =>
      train(
        on,
        dirOf(dtype),
        { replayWindow, ramBytes, threads: replayWindow === 2 ? 2 : 1 },
        { weightDecay: wd, steps: 4 },
      )
    const replayed = await run(16, 2 ** 40, 'F16')
    expect(await run(1, 2 ** 40, 'F16')).toEqual(replayed)
    expect(await run(1, 1, 'F16')).toEqual(replayed)
    expect(await run(2, 1, 'F16')).toEqual(replayed)
    const wide = await run(16, 2 ** 40, 'F32')
    expect(await run(1, 1, 'F32')).toEqual(wide)
    expect(await run(2, 2 ** 40, 'F32')).toEqual(wide)
  })

  it.each(['f16', 'bf16', 'pre-norm-tied'])(
    'gives the same bits from .bin as from safetensors, layout %s',
    async (layout) => {
      const results: Result[] = []
      for (const file of ['model.safetensors', 'pytorch_model.bin']) {
        const dir = join(folder, test.name, layout, file)
        await mkdir(dir, { recursive: true })
        for (const name of ['config.json', file]) {
          await copyFile(join(LAYOUTS, layout, name), join(dir, name))
        }
        results.push(await train(on, dir, { replayWindow: 2 }, { vocab: 97 }))
      }
      expect(results[1]).toEqual(results[0])
    },
  )

  it('sees the same direction and loss in two micro-batches of 2 as in one batch of 4', async () => {
    const whole = syntheticBatch(4, 5, SEVERAL_TILES.vocab, 9)
    const half = (from: number) => ({
      inputIds: whole.inputIds.slice(from, from + 2),
      attentionMask: whole.attentionMask.slice(from, from + 2),
      labels: whole.labels.slice(from, from + 2),
    })
    const step = async (micro: readonly Batch[]) => {
      const engine = await openRun(on, dirOf('F32'))
      try {
        const training = { batches: [micro], lr: 1e-3, eps: 1e-2, weightDecay: 0 }
        return (await trainSteps(engine, training))[0]!
      } finally {
        await engine.close()
      }
    }
    const one = await step([whole])
    const two = await step([half(0), half(2)])
    expect(Math.abs(two.loss_plus! - one.loss_plus!)).toBeLessThan(1e-5)
    expect(Math.abs(two.loss_minus! - one.loss_minus!)).toBeLessThan(1e-5)
    // g = (loss+ - loss-) / 2 eps: 1e-5 in the losses is 1e-3 in g.
    expect(Math.abs(two.projected_grad - one.projected_grad)).toBeLessThan(1e-3)
    expect(Math.abs(one.projected_grad)).toBeGreaterThan(0.1)
  })
})

/** Folds fall into the run, and some windows stay in factors. */
const FACTORED: readonly RunOptions[] = [
  { method: 'lozo', window: 2, foldWindows: 1 },
  { method: 'lozo-m', window: 1, foldWindows: 2, probes: 2 },
  { method: 'kronzo', window: 2, foldWindows: 1 },
  { method: 'kronzo-m', window: 2, foldWindows: 2 },
]

describe.each(openDevices())('factored methods on $name', (test: TestDevice) => {
  let device: Device
  let on: OpenDevice
  beforeAll(async () => {
    device = await test.open()
    on = { device, memory: test.memory }
  })
  afterAll(() => device?.close())

  it.each(FACTORED)('give the same bits however they are streamed: %j', async (method) => {
    const run = (options: RunOptions, decay = 0) =>
      train(on, dirOf('F16'), { ...method, ...options }, { steps: 6, weightDecay: decay })
    const streamed = await run({})
    expect(await run({ resident: 'all' })).toEqual(streamed)
    expect(await run({ slabBytes: 1, ramBytes: 1, threads: 2 })).toEqual(streamed)
    const budgetBytes = await twoSlotBudget(on, { ...method, slabBytes: TILE })
    expect(await run({ slabBytes: TILE, budgetBytes })).toEqual(streamed)
    const decayed = await run({}, 0.1)
    expect(decayed).not.toEqual(streamed)
    expect(await run({ resident: 'all', ramBytes: 1 }, 0.1)).toEqual(decayed)
  })
})

describe('MeZO-SGD', () => {
  const [cpu, webgpu] = openDevices() as [TestDevice, TestDevice]

  it('gives the same bits with one thread as with two on cpu', async () => {
    const results: Result[] = []
    for (const threads of [1, 2]) {
      const device = await openCpu({ threads })
      try {
        const options = { threads, replayWindow: 2 }
        results.push(await train({ device, memory: cpu.memory }, dirOf('F16'), options))
      } finally {
        await device.close()
      }
    }
    expect(results[1]).toEqual(results[0])
  })

  it('gives the same bits by ring and by direct uploads on webgpu', async () => {
    const results: Result[] = []
    for (const transfer of ['ring', 'direct'] as const) {
      const device = await openWebgpu({ adapter: 'llvmpipe', transfer })
      try {
        results.push(await train({ device, memory: webgpu.memory }, dirOf('F16')))
      } finally {
        await device.close()
      }
    }
    expect(results[1]).toEqual(results[0])
  })
})
