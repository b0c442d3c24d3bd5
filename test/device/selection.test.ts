// Which tensors train: frozen ones keep the base file's bits and have no place in the overlay, and
// the layers before the first perturbed tensor are computed once for all probes, which changes the
// losses by rounding at most.
// Alone: npx vitest run test/device/selection.test.ts

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { packBatch } from '../../src/data/packing.ts'
import type { Device } from '../../src/device/device.ts'
import { exportModel } from '../../src/export/folder.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import { createMethod, METHOD_NAMES } from '../../src/methods/index.ts'
import type { Method } from '../../src/methods/method.ts'
import { createSelection, type SelectionOptions } from '../../src/methods/selection.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { openDevices } from '../helpers/devices.ts'
import {
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'
import { writeSyntheticOpt, type OptShape } from '../helpers/synthetic-opt.ts'

const SHAPE: OptShape = { hidden: 48, ffn: 104, vocab: 131, layers: 4, heads: 4 }
const [BATCH, TOKENS, STEPS] = [2, 6, 6]
const LINEARS = 6
const folder = tempFolder()
const base = join(folder, 'base')
const SEED = 5
const layer = (i: number) => `*.layers.${i}.*`
const select = (options: Partial<SelectionOptions>) =>
  createSelection({ seed: SEED, layers: SHAPE.layers, ...options })

const training = {
  batches: Array.from({ length: STEPS }, (_, i) => [syntheticBatch(BATCH, TOKENS, SHAPE.vocab, i)]),
  lr: 1e-3,
  eps: 1e-3,
  weightDecay: 0.1,
}

/** Of each batch: all its labels are wanted. */
const ROWS = packBatch(training.batches[0]![0]!).packed.ids.length

beforeAll(() => writeSyntheticOpt(base, SHAPE, 'F16'))

/** The bytes of every tensor as its file holds them. */
async function bytesOf(dir: string): Promise<Map<string, Buffer>> {
  const { tensors } = await openCheckpoint(dir)
  const found = new Map<string, Buffer>()
  for (const { name, file, offsetBytes, bytes } of tensors.values()) {
    found.set(name, (await readFile(file)).subarray(offsetBytes, offsetBytes + bytes))
  }
  return found
}

/** The same method without the shared prefix: all probes are computed apart from the start. */
function unshared(method: Method): Method {
  const start: Method['start'] = (...args) => ({
    ...method.start(...args),
    isPerturbed: () => true,
  })
  return { ...method, start }
}

/** Counts the rows that `linear` works on, call by call. */
function counting(device: Device): { device: Device; rows: number[] } {
  const rows: number[] = []
  const linear: Device['linear'] = (x, slot, bias, y, at, options) => {
    rows.push(at.probes * at.rows)
    return device.linear(x, slot, bias, y, at, options)
  }
  const proxy = new Proxy(device, {
    get(target, key: keyof Device) {
      if (key === 'linear') return linear
      const value: unknown = target[key]
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
  return { device: proxy, rows }
}

/** What a step's linears cost in rows when probes part in block `from`. */
const rowsFrom = (from: number, probes: number) =>
  ROWS * LINEARS * (from + (SHAPE.layers - from) * probes)

describe.each(openDevices())('on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  it.each([
    [{ trainOnly: ['*fc2*', '*final_layer_norm*'] }, /fc2|final_layer_norm/],
    [
      { trainOnly: ['*.layers.?.*'], freeze: ['*self_attn*', '*.bias'] },
      /layers\.\d.*(fc\d|final_layer_norm)\.weight/,
    ],
    [{ freeze: ['*embed*'], layersPerStep: 3 }, /layers|decoder\.final_layer_norm/],
  ] as const)(
    'frozen tensors keep their bits, and are never folded: %j',
    async (options, trained) => {
      const before = await bytesOf(base)
      for (const method of METHOD_NAMES) {
        const engine = await openRun(on, base, {
          method,
          selection: select(options),
          ramBytes: 1,
          window: 1,
          foldWindows: 1,
          replayWindow: 1,
        })
        try {
          await trainSteps(engine, training)
          const dir = join(folder, `${test.name}-${method}-${JSON.stringify(options).length}`)
          await exportModel(engine, dir, { dtype: 'F16' })
          const after = await bytesOf(dir)
          expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
          for (const [name, bytes] of after) {
            const same = bytes.equals(before.get(name)!)
            expect(same, `${method} ${name}`).toBe(!trained.test(name))
          }
          for (const { name } of engine.model.matrices) {
            expect(engine.store.version(name) > 0, `${method} ${name}`).toBe(trained.test(name))
          }
        } finally {
          await engine.close()
        }
      }
    },
  )

  const journalOf = async (options: RunOptions, device: Device, lr = training.lr) => {
    const engine = await openRun({ ...on, device }, base, options)
    try {
      return await trainSteps(engine, { ...training, lr })
    } finally {
      await engine.close()
    }
  }

  // Windows of 2 that are kept for 2: states in factors, of layers that this step does not perturb.
  // With --layers-per-step the first block of each step is the seed's (null).
  it.each([
    ['mezo-sgd', 1, { trainOnly: [layer(2), layer(3)] }, 2],
    ['lozo', 2, { trainOnly: [layer(2), layer(3)] }, 2],
    ['lozo', 1, { trainOnly: ['*.layers.3.fc2.bias'] }, 3],
    ['kronzo', 1, { trainOnly: ['model.decoder.final_layer_norm.*'] }, 4],
    ['mezo-sgd', 2, { freeze: ['*embed*'], layersPerStep: 1 }, null],
    ['lozo-m', 1, { freeze: ['*embed*'], layersPerStep: 1 }, null],
    ['kronzo', 2, { freeze: ['*embed*'], layersPerStep: 2 }, null],
    ['kronzo', 1, { layersPerStep: 1 }, 0],
  ] as const)(
    '%s of %d directions computes what probes share once: %j',
    async (name, probes, options, from) => {
      const selection = select(options)
      const firstActive = (step: number) =>
        [0, 1, 2, 3].findIndex((block) =>
          selection.active(step, `model.decoder.layers.${block}.fc1.weight`),
        )
      const parting = training.batches.map((_, step) => from ?? firstActive(step))
      if (from === null) expect(new Set(parting).size).toBeGreaterThan(1)

      const method = createMethod(name)
      const rest = { selection, probes, window: 2, foldWindows: 2, replayWindow: 2 }
      const shared = counting(on.device)
      const made = await journalOf({ ...rest, method }, shared.device)
      const apart = counting(on.device)
      const expected = await journalOf({ ...rest, method: unshared(method) }, apart.device)

      const sum = (rows: readonly number[]) => rows.reduce((a, b) => a + b, 0)
      const P = 2 * probes
      expect(sum(shared.rows)).toBe(sum(parting.map((block) => rowsFrom(block, P))))
      expect(sum(apart.rows)).toBe(STEPS * rowsFrom(0, P))
      made.forEach((entry, step) => {
        const { loss_plus, loss_minus } = expected[step]!
        expect(Math.abs(entry.loss_plus! - loss_plus!), `step ${step}`).toBeLessThan(1e-6)
        expect(Math.abs(entry.loss_minus! - loss_minus!), `step ${step}`).toBeLessThan(1e-6)
        expect(entry.projected_grad).not.toBe(0)
      })
    },
  )

  it.each([
    ['lozo', 1e-3],
    ['lozo-m', 1e-2],
    ['kronzo', 1e-3],
    ['kronzo-m', 1e-2],
  ])(
    '%s in factors and folded see the same weights where a layer rests for a step',
    async (method, lr) => {
      const selection = select({ freeze: ['*embed*'], layersPerStep: 2 })
      const rest = { method, selection, window: 1 }
      const folded = await journalOf({ ...rest, foldWindows: 1 }, on.device, lr)
      const inFactors = await journalOf({ ...rest, foldWindows: STEPS + 1 }, on.device, lr)
      const untrained = await journalOf(rest, on.device, 0)
      const apart = (other: readonly JournalEntry[]) =>
        Math.max(...folded.map(({ loss_plus }, i) => Math.abs(loss_plus! - other[i]!.loss_plus!)))
      expect(apart(inFactors)).toBeLessThan(1e-5)
      expect(apart(untrained)).toBeGreaterThan(1e-3)
    },
  )
})

it('LeZO perturbs n blocks a step, and every block in the long run', () => {
  const selection = createSelection({ seed: 3, layers: 12, layersPerStep: 3 })
  const name = (i: number) => `model.decoder.layers.${i}.fc1.weight`
  const seen = new Set<number>()
  for (let step = 0; step < 40; step++) {
    const active = Array.from({ length: 12 }, (_, i) => i).filter((i) =>
      selection.active(step, name(i)),
    )
    expect(active).toHaveLength(3)
    active.forEach((i) => seen.add(i))
    expect(selection.active(step, 'model.decoder.embed_tokens.weight')).toBe(true)
  }
  expect(seen.size).toBe(12)
})
