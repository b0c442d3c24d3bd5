// Folded weights in float16: rounding is unbiased and a pure function of its key, and a run that folds
// into it streams, resumes and replays on the other device to the same bits.
// Alone: npx vitest run test/device/overlay-f16.test.ts

import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { parseConfig } from '../../src/config/options.ts'
import { updateOf } from '../../src/run/journal.ts'
import type { Update } from '../../src/methods/method.ts'
import { roundHalf } from '../reference/noise.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'
import { planReport } from '../../src/plan/report.ts'
import { silent } from '../../src/util/console.ts'
import { convertElements } from '../../src/util/dtypes.ts'
import { openDevices, values } from '../helpers/devices.ts'
import {
  exportedDigests,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'
import { SEVERAL_SMALL_TILES } from '../helpers/small-tiles.ts'
import { writeSyntheticOpt } from '../helpers/synthetic-opt.ts'

vi.mock('../../scheduler/tile-elements.ts', () => import('../helpers/small-tiles.ts'))

const kernel = createNoiseKernel()

function rounded(weights: Float32Array, first: number, step: number): Float32Array {
  const out = new Uint16Array(weights.length)
  kernel.roundHalf(weights, first, noiseKey(1, step, 'w', 'round'), out)
  const wide = convertElements(new Uint8Array(out.buffer), 'F16', 'F32')
  return new Float32Array(wide.buffer, wide.byteOffset, weights.length)
}

describe('stochastic rounding to float16', () => {
  it('is the same in WebAssembly and TypeScript, at any place, for any magnitude', () => {
    for (const [seed, scale] of [1, 1e-3, 1e-5, 1e-7, 3e4].entries()) {
      const weights = values(5000, seed + 1, scale).map((w) => Math.max(-65000, Math.min(65000, w)))
      for (const first of [0, 7, 2 ** 20 + 1]) {
        const expected = roundHalf(weights, first, noiseKey(1, seed, 'w', 'round'))
        expect(rounded(weights, first, seed)).toEqual(expected)
      }
    }
  })

  it('is right on average, and leaves float16 values as they are', () => {
    const exact = Float32Array.of(0, 1, -1.5, 2 ** -24, -(2 ** -14), 65504)
    expect(rounded(exact, 0, 3)).toEqual(exact)
    // 0.3 of the way between two neighbours: a normal value, and one below 2^-14.
    for (const value of [1 + 0.3 * 2 ** -10, 10.3 * 2 ** -24]) {
      const many = new Float32Array(200_000).fill(value)
      const got = rounded(many, 0, 4)
      const grain = value > 1 ? 2 ** -10 : 2 ** -24
      const up = got.filter((v) => v > value).length / many.length
      expect(new Set(got).size).toBe(2)
      expect(Math.abs(up - 0.3)).toBeLessThan(4 * Math.sqrt((0.3 * 0.7) / many.length))
      expect(Math.abs(got[0]! - value)).toBeLessThan(grain)
    }
  })

  it('keeps increments that rounding to the nearest would lose', () => {
    let weights = new Float32Array(20_000).fill(1)
    const step = 2 ** -10 / 50
    for (let i = 0; i < 100; i++)
      weights = rounded(
        weights.map((w) => w + step),
        0,
        i,
      ) as typeof weights
    const mean = weights.reduce((sum, w) => sum + w, 0) / weights.length
    expect(Math.abs(mean - (1 + 100 * step))).toBeLessThan(0.02 * 100 * step)
  })

  it('refuses what float16 cannot hold', () => {
    expect(() => rounded(Float32Array.of(1, 65520), 0, 0)).toThrow(/beyond the range/)
    expect(() => rounded(Float32Array.of(NaN), 0, 0)).toThrow(/beyond the range/)
  })
})

const folder = tempFolder()
const METHODS: RunOptions[] = [
  { method: 'mezo-sgd', replayWindow: 2 },
  { method: 'lozo', window: 1, foldWindows: 1 },
  { method: 'kronzo-m', window: 2, foldWindows: 1 },
]
/** Folds in the first three and after them. */
const STEPS = 4
const opened = new Map<string, OpenDevice>()

beforeAll(async () => {
  await writeSyntheticOpt(join(folder, 'f16'), SEVERAL_SMALL_TILES, 'F16')
  for (const { name, open } of openDevices()) {
    opened.set(name, { device: await open() })
  }
})
afterAll(async () => {
  for (const { device } of opened.values()) await device.close()
})

interface Run {
  readonly updates: Update[]
  readonly weights: Readonly<Record<string, string>>
}

/** Steps from `updates` on; all updates, and the exported weights. */
async function run(
  name: string,
  options: RunOptions,
  updates: Update[],
  steps: number,
): Promise<Run> {
  const engine = await openRun(opened.get(name)!, join(folder, 'f16'), { ...options, updates })
  try {
    const batches = Array.from({ length: steps }, (_, i) => [
      syntheticBatch(2, 5, SEVERAL_SMALL_TILES.vocab, i),
    ])
    const journal = await trainSteps(engine, {
      batches: batches.slice(updates.length),
      lr: 1e-2,
      eps: 1e-3,
      weightDecay: 0,
      first: updates.length,
    })
    const weights = await exportedDigests(engine)
    return { updates: [...updates, ...journal.map((entry) => updateOf(entry, 0))], weights }
  } finally {
    await engine.close()
  }
}

describe.each(METHODS)('a float16 overlay under $method', (method) => {
  const f16: RunOptions = { ...method, overlayDtype: 'float16' }
  const wholes = new Map<string, Promise<Run>>()
  const wholeOn = (name: string) => {
    if (!wholes.has(name)) wholes.set(name, run(name, f16, [], STEPS))
    return wholes.get(name)!
  }

  it.each(['cpu', 'webgpu'])(
    'on %s: streamed = resident, resumed = not interrupted',
    async (name) => {
      const whole = await wholeOn(name)
      const small = await run(name, { ...f16, slabBytes: 1, resident: 'none' }, [], STEPS)
      expect(small).toEqual(whole)
      expect(await run(name, { ...f16, resident: 'all' }, [], STEPS)).toEqual(whole)
      expect(await run(name, f16, whole.updates.slice(0, 3), STEPS)).toEqual(whole)
      const wide = await run('cpu', method, whole.updates, STEPS)
      expect(wide.weights).not.toEqual(whole.weights)
    },
  )

  it('is replayed to the same weights on the other device', async () => {
    const { updates, weights } = await wholeOn('webgpu')
    expect((await run('cpu', f16, updates, STEPS)).weights).toEqual(weights)
  })
})

describe('a float16 overlay', () => {
  it('halves what is kept and read of folded weights', async () => {
    const plan = async (overlayDtype: string) => {
      const config = parseConfig({
        overlayDtype,
        steps: 100,
        batchSize: 1,
        maxLength: 16,
        memory: 2 ** 30,
        resident: 'none',
        ram: 2 ** 40,
      })
      return (await planReport('synthetic:opt-1.3b', config, silent)).json
    }
    const [wide, half] = [await plan('float32'), await plan('float16')]
    expect(half.folded_read_bytes).toBe(wide.folded_read_bytes / 2)
    // Position embeddings are kept too, and never streamed.
    const saved = wide.host_bytes - half.host_bytes
    expect(saved).toBe(wide.folded_read_bytes / 2 + 2 * 2050 * 2048)
  })

  it('is refused where nothing is folded', () => {
    expect(() => parseConfig({ overlayDtype: 'float16', loraRank: 4 })).toThrow(/folds nothing/)
  })
})
