// Same bits whatever the memory: every method streamed and resident, with any slab size, slot count,
// replay window, overlay place, file format, thread count and upload strategy gives the same losses
// at every step and the same exported weights, on each device.
// Alone: npx vitest run test/device/equivalence.test.ts

import { copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { Plan } from '../../scheduler/plan.ts'
import type { Batch } from '../../src/data/types.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import type { Device } from '../../src/device/device.ts'
import { openWebgpu } from '../../src/device/webgpu/device.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import type { DType } from '../../src/util/dtypes.ts'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { openDevices, type TestDevice } from '../helpers/devices.ts'
import { hashedModel } from '../helpers/hashed.ts'
import { evenShape } from '../helpers/shape.ts'
import {
  exportedDigests,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'
import { SEVERAL_SMALL_TILES, TILE_ELEMENTS } from '../helpers/small-tiles.ts'
import { writeSyntheticOpt } from '../helpers/synthetic-opt.ts'

vi.mock('../../scheduler/tile-elements.ts', () => import('../helpers/small-tiles.ts'))

const TILE = 4 * TILE_ELEMENTS // a compute tile in f32, which is how a training run plans its slabs
const STEPS = 3
const LAYOUTS = fileURLToPath(new URL('../fixtures/layouts/', import.meta.url))
const folder = tempFolder()
const dirOf = (dtype: DType) => join(folder, dtype)

beforeAll(async () => {
  for (const dtype of ['F16', 'F32'] as const) {
    await writeSyntheticOpt(dirOf(dtype), SEVERAL_SMALL_TILES, dtype)
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
  { weightDecay = 0, steps = STEPS, vocab = SEVERAL_SMALL_TILES.vocab } = {},
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

/** Options that leave room for two slots, not for three. */
async function twoSlots(opened: OpenDevice, method: RunOptions): Promise<RunOptions> {
  const options: RunOptions = { slabBytes: TILE }
  const three = await planOf(opened, { ...method, ...options })
  expect(three.slots).toBe(3)
  const budgetBytes = three.peakBytes - 1
  expect((await planOf(opened, { ...method, ...options, budgetBytes })).slots).toBe(2)
  return { ...options, budgetBytes }
}

/** The plan of what `train` trains. */
async function planOf(opened: OpenDevice, options: RunOptions): Promise<Plan> {
  const engine = await openRun(opened, dirOf('F16'), options)
  try {
    return engine.workingSet(evenShape(2 * (options.probes ?? 1), 2, 5)).plan
  } finally {
    await engine.close()
  }
}

/** Options under which some slabs stay on the device, not all. */
async function someResident(opened: OpenDevice, method: RunOptions): Promise<RunOptions> {
  const options: RunOptions = { resident: 'auto', slabBytes: TILE }
  const all = await planOf(opened, { ...method, ...options, resident: 'all' })
  const budgetBytes = all.peakBytes - 1
  const plan = await planOf(opened, { ...method, ...options, budgetBytes })
  expect(plan.residentSlabs).toBeGreaterThan(0)
  expect(plan.residentSlabs).toBeLessThan(plan.slabs.length)
  return { ...options, budgetBytes }
}

/** One training run from model.safetensors, one from pytorch_model.bin. */
async function ofBothFormats(
  opened: OpenDevice,
  layout: string,
  dir: string,
  options: RunOptions,
): Promise<Result[]> {
  const results: Result[] = []
  for (const file of ['model.safetensors', 'pytorch_model.bin']) {
    const only = join(dir, file)
    await mkdir(only, { recursive: true })
    for (const name of ['config.json', file]) {
      await copyFile(join(LAYOUTS, layout, name), join(only, name))
    }
    results.push(await train(opened, only, options, { vocab: 97 }))
  }
  return results
}

describe.each(openDevices())('MeZO-SGD on $name', (test: TestDevice) => {
  let device: Device
  let on: OpenDevice
  beforeAll(async () => {
    device = await test.open()
    on = { device }
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
    const options = { ...(await someResident(on, {})), replayWindow: 2 }
    expect(await train(on, dirOf('F16'), options)).toEqual(await streamed.F16())
  })

  // One tile (a smaller request is rounded up), two, and three or all as above.
  it.each([1, 1.5 * TILE])('gives the same bits in slabs of %d bytes', async (n) => {
    expect(await train(on, dirOf('F16'), { slabBytes: n })).toEqual(await streamed.F16())
  })

  it('gives the same bits through two slots as through three', async () => {
    expect(await train(on, dirOf('F16'), await twoSlots(on, {}))).toEqual(await streamed.F16())
  })

  const decayed = {
    F16: lazily(() => train(on, dirOf('F16'), {}, { weightDecay: 0.1 })),
    F32: lazily(() => train(on, dirOf('F32'), {}, { weightDecay: 0.1 })),
  }

  // Every pair of window, place of the overlay, dtype and decay; the window above, 4, never folds.
  it.each([
    [1, 2 ** 40, 'F16', 0],
    [1, 1, 'F32', 0.1],
    [2, 2 ** 40, 'F32', 0.1],
    [2, 1, 'F16', 0.1],
    [2, 1, 'F32', 0],
  ] as const)(
    'gives the same bits for replay window %d as without folds, %d bytes of RAM, %s, decay %d',
    async (replayWindow, ramBytes, dtype, weightDecay) => {
      const options = { replayWindow, ramBytes, threads: replayWindow }
      const folded = await train(on, dirOf(dtype), options, { weightDecay })
      expect(folded).toEqual(await (weightDecay === 0 ? streamed : decayed)[dtype]())
    },
  )

  it.each(['f16', 'bf16', 'pre-norm-tied'])(
    'gives the same bits from .bin as from safetensors, layout %s',
    async (layout) => {
      const dir = join(folder, test.name, layout)
      const [safetensors, bin] = await ofBothFormats(on, layout, dir, { replayWindow: 2 })
      expect(bin).toEqual(safetensors)
    },
  )

  it('sees the same direction and loss in two micro-batches of 2 as in one batch of 4', async () => {
    const whole = syntheticBatch(4, 5, SEVERAL_SMALL_TILES.vocab, 9)
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

/** In 6 steps all are folded; complete windows stay in factors for a while where foldWindows is 2. */
const LOZO: RunOptions = { method: 'lozo', window: 2, foldWindows: 2 }
const KRONZO: RunOptions = { method: 'kronzo', window: 2, foldWindows: 1 }
const FACTORED: readonly RunOptions[] = [
  LOZO,
  { method: 'lozo-m', window: 1, foldWindows: 2, probes: 2 },
  KRONZO,
  { method: 'kronzo-m', window: 2, foldWindows: 2 },
]

/** Ways to stream a run, each against slabs of the default size in three slots and plain memory. */
const WAYS: Readonly<
  Record<string, (on: OpenDevice, method: RunOptions) => RunOptions | Promise<RunOptions>>
> = {
  'all resident': () => ({ resident: 'all' }),
  'some resident, the overlay in a file': async (on, method) => {
    return { ...(await someResident(on, method)), ramBytes: 1 }
  },
  'single tiles, the overlay in a file, two threads': () => {
    return { slabBytes: 1, ramBytes: 1, threads: 2 }
  },
  'two slots': (on, method) => twoSlots(on, method),
}

describe.each(openDevices().map((test, i) => ({ ...test, i })))(
  'factored methods on $name',
  (test) => {
    let device: Device
    let on: OpenDevice
    beforeAll(async () => {
      device = await test.open()
      on = { device }
    })
    afterAll(() => device?.close())

    /** Every other one, from the first on one device, from the second on the other. */
    const half = <T>(all: readonly T[], first: number) =>
      all.filter((_, i) => (i + first + test.i) % 2 === 0)

    const run = (method: RunOptions, options: RunOptions, weightDecay = 0) =>
      train(on, dirOf('F16'), { ...method, ...options }, { steps: 6, weightDecay })
    const streamed = FACTORED.map((method) => lazily(() => run(method, {})))

    // Every pair of method, way and device: each method in each way on one of the devices.
    it.each(
      FACTORED.flatMap((method, i) =>
        half(Object.keys(WAYS), i).map((way) => [i, way, method] as const),
      ),
    )('give the same bits however they are streamed: method %i, %s: %j', async (i, way, method) => {
      const options = await WAYS[way]!(on, method)
      expect(await run(method, options)).toEqual(await streamed[i]!())
    })

    it.each(half([...FACTORED.entries()], 0))(
      'decay the same resident, the overlay in a file, as streamed: method %i: %j',
      async (i, method) => {
        const decayed = await run(method, {}, 0.1)
        expect(decayed).not.toEqual(await streamed[i]!())
        expect(await run(method, { resident: 'all', ramBytes: 1 }, 0.1)).toEqual(decayed)
      },
    )

    it.each(FACTORED)('give the same bits from .bin as from safetensors: %j', async (method) => {
      const dir = join(folder, test.name, String(method.method))
      const [safetensors, bin] = await ofBothFormats(on, 'f16', dir, method)
      expect(bin).toEqual(safetensors)
    })
  },
)

describe.each(openDevices())('decoders on $name', (test) => {
  let device: Device
  beforeAll(async () => {
    device = await test.open()
  })
  afterAll(() => device?.close())

  it.each([
    ['llama3', { replayWindow: 2 }],
    ['qwen3', KRONZO],
    ['gemma2', LOZO],
    ['phi3-longrope', { replayWindow: 1 }],
  ] as const)('%s gives the same bits resident as streamed: %j', async (variant, method) => {
    const dir = await hashedModel(variant)
    const run = (options: RunOptions) =>
      train({ device }, dir, { ...method, ...options }, { steps: 4, vocab: 61 })
    const streamed = await run({ resident: 'none' })
    expect(await run({ resident: 'all' })).toEqual(streamed)
    expect(await run({ resident: 'none', slabBytes: 1, ramBytes: 1 })).toEqual(streamed)
  })
})

describe.each([{ replayWindow: 2 }, LOZO, KRONZO])('%j', (method: RunOptions) => {
  const results = async (opens: readonly (() => Promise<Device>)[]) => {
    const made: Result[] = []
    for (const open of opens) {
      const device = await open()
      try {
        const threads = 1 + made.length
        const options = { ...method, threads }
        made.push(await train({ device }, dirOf('F16'), options, { steps: 5 }))
      } finally {
        await device.close()
      }
    }
    return made
  }

  it('gives the same bits with one thread as with two on cpu', async () => {
    const opens = [1, 2].map((threads) => () => openCpu({ threads }))
    const [one, two] = await results(opens)
    expect(two).toEqual(one)
  })

  it('gives the same bits by ring and by direct uploads on webgpu', async () => {
    const open = (transfer: 'ring' | 'direct') => () =>
      openWebgpu({ adapter: TEST_ADAPTER, transfer })
    const [ring, direct] = await results([open('ring'), open('direct')])
    expect(direct).toEqual(ring)
  })
})
