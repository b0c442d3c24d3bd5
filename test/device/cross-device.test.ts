// A journal is the model on every device: replayed elsewhere it gives the same exported weights and
// the same weights inside the device's products, bit for bit; losses agree to rounding.
// Alone: npx vitest run test/device/cross-device.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { evaluateBatches } from '../../src/train/evaluate.ts'
import { replay, type JournalEntry } from '../../src/run/journal.ts'
import type { Update } from '../../src/methods/method.ts'
import type { Noise } from '../../src/noise/distributions.ts'
import { openDevices } from '../helpers/devices.ts'
import { hashedModel } from '../helpers/hashed.ts'
import { evenShape } from '../helpers/shape.ts'
import { observerOf, type Observed } from '../helpers/observe.ts'
import {
  exportedDigests,
  exportedTensors,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'
import { optConfig, writeSyntheticOpt, type OptShape } from '../helpers/synthetic-opt.ts'

const SHAPE: OptShape = { hidden: 48, ffn: 104, vocab: 131, layers: 2, heads: 4 }
const STEPS = 6
const folder = tempFolder()
const devices = openDevices()
const opened = new Map<string, OpenDevice>()
const observer = observerOf(createModel(optConfig(SHAPE)))

beforeAll(async () => {
  await writeSyntheticOpt(folder, SHAPE, 'F16')
  for (const { name, open } of devices) opened.set(name, { device: await open() })
})
afterAll(async () => {
  for (const { device } of opened.values()) await device.close()
})

async function withEngine<T>(
  name: string,
  options: RunOptions,
  use: (engine: Engine) => Promise<T>,
  dir = folder,
): Promise<T> {
  const engine = await openRun(opened.get(name)!, dir, options)
  try {
    return await use(engine)
  } finally {
    await engine.close()
  }
}

const batches = Array.from({ length: STEPS }, (_, i) => [syntheticBatch(3, 8, SHAPE.vocab, i)])
const updateOf = (step: number, grad: number, lr: number, weightDecay: number): Update => ({
  step,
  lr,
  grads: [grad],
  decay: Math.fround(1 - lr * weightDecay),
})

/** A run on one device; `seen` is what it multiplies with at the end, as both probes see it. */
async function runOn(name: string, noise: Noise, weightDecay: number) {
  const training = { batches, lr: 3e-3, eps: 1e-3, weightDecay }
  const made = await withEngine(name, { noise, replayWindow: 2 }, async (engine) => ({
    journal: await trainSteps(engine, training),
    weights: await exportedDigests(engine),
  }))
  const updates = replay(made.journal, weightDecay)
  return { ...made, updates, seen: await observe(name, { noise, updates, replayWindow: STEPS }) }
}

function observe(name: string, options: RunOptions): Promise<Observed> {
  const probes = {
    step: STEPS,
    list: [1e-3, -1e-3].map((scale) => ({ direction: 0, scale })),
  }
  const all = { ...options, model: observer.model }
  return withEngine(name, all, (engine) => observer.observe(engine, probes))
}

const bits = (f32: Float32Array) => Buffer.from(f32.buffer, f32.byteOffset, f32.byteLength)

/** Names of matrices of which any version differs in any bit. */
function differing(a: Observed, b: Observed): string[] {
  const same = (x: Float32Array, y: Float32Array) => bits(x).equals(bits(y))
  return [...a.keys()].filter((name) => !a.get(name)!.every((v, p) => same(v, b.get(name)![p]!)))
}

describe.each([
  ['gaussian', 'cpu', 'webgpu'],
  ['gaussian', 'webgpu', 'cpu'],
  ['rademacher', 'cpu', 'webgpu'],
  ['rademacher', 'webgpu', 'cpu'],
] as const)('a journal with %s noise made on %s and replayed on %s', (noise, from, to) => {
  it.each([0, 0.1])('gives the same weights in files and in products, decay %d', async (wd) => {
    const made = await runOn(from, noise, wd)
    expect(made.journal.every((entry) => Math.abs(entry.projected_grad) > 0.01)).toBe(true)
    for (const replayWindow of [2, STEPS]) {
      const options = { noise, updates: made.updates, replayWindow }
      expect(await withEngine(to, options, exportedDigests)).toEqual(made.weights)
    }
    const seen = await observe(to, { noise, updates: made.updates, replayWindow: STEPS })
    expect(differing(made.seen, seen)).toEqual([])
    const [plus, minus] = seen.get(observer.model.matrices[0]!.name)!
    expect(plus).not.toEqual(minus)
  })
})

describe.each([
  ['lozo', 'gaussian', 'cpu', 'webgpu'],
  ['lozo-m', 'gaussian', 'webgpu', 'cpu'],
  ['lozo-m', 'rademacher', 'cpu', 'webgpu'],
  ['kronzo', 'gaussian', 'webgpu', 'cpu'],
  ['kronzo-m', 'gaussian', 'cpu', 'webgpu'],
  ['kronzo-m', 'rademacher', 'webgpu', 'cpu'],
] as const)('a journal of %s with %s noise made on %s and replayed on %s', (...given) => {
  const [method, noise, from, to] = given
  it.each([0, 0.1])('gives the same weights in files, decay %d', async (weightDecay) => {
    const options: RunOptions = { method, noise, window: 2, foldWindows: 2, probes: 2 }
    const training = { batches, lr: 1e-3, eps: 1e-3, weightDecay }
    const made = await withEngine(from, options, async (engine) => ({
      journal: await trainSteps(engine, training),
      weights: await exportedDigests(engine),
    }))
    const updates = replay(made.journal, weightDecay)
    expect(await withEngine(to, { ...options, updates }, exportedDigests)).toEqual(made.weights)
    expect(await withEngine(to, options, exportedDigests)).not.toEqual(made.weights)
  })
})

describe.each([
  ['qwen3', 'mezo-sgd', 'cpu', 'webgpu'],
  ['gemma3_text', 'lozo', 'webgpu', 'cpu'],
] as const)('a journal of a %s made with %s on %s', (variant, method, from, to) => {
  it('gives the same weights on the other device', async () => {
    const dir = await hashedModel(variant)
    const options: RunOptions = { method, window: 2, replayWindow: 2 }
    const own = batches.map((_, i) => [syntheticBatch(3, 8, 61, i)])
    const training = { batches: own, lr: 1e-3, eps: 1e-3, weightDecay: 0.1 }
    const run = async (engine: Engine) => ({
      journal: await trainSteps(engine, training),
      weights: await exportedDigests(engine),
    })
    const made = await withEngine(from, options, run, dir)
    const updates = replay(made.journal, 0.1)
    const again = await withEngine(to, { ...options, updates }, exportedDigests, dir)
    expect(again).toEqual(made.weights)
  })
})

describe.each(devices)('on $name', ({ name }) => {
  it.each([0, 0.1])('products see the weights that are exported, decay %d', async (weightDecay) => {
    const updates = [0.5, -2, 0.25].map((g, step) => updateOf(step, g, 1e-2, weightDecay))
    const options = { updates, replayWindow: 3 }
    const exported = await withEngine(name, options, exportedTensors)
    const seen = await withEngine(name, { ...options, model: observer.model }, (engine) =>
      observer.observe(engine, null),
    )
    for (const [matrix, [version]] of seen) {
      expect(bits(version!).equals(exported.get(matrix)!), matrix).toBe(true)
    }
  })

  it('a resumed run evaluates with more updates owed than its replay window', async () => {
    const updates = Array.from({ length: 40 }, (_, step) => updateOf(step, 1, 1e-3, 0))
    const loss = (replayWindow: number) =>
      withEngine(name, { updates, replayWindow }, async (engine) => {
        const at = engine.workingSet(evenShape(2, 3, 8))
        const result = await evaluateBatches(engine, batches[0]!)
        expect(engine.device.ledger.total()).toBe(at.plan.peakBytes)
        return result.loss
      })
    expect(await loss(2)).toBe(await loss(40))
  })
})

it('losses of the same step agree between the devices to 1e-4', async () => {
  const updates = replay((await runOn('cpu', 'gaussian', 0)).journal, 0)
  const entries: JournalEntry[] = []
  for (const { name } of devices) {
    const append = { lr: 1e-3, eps: 1e-3, weightDecay: 0 }
    const step = { batches: batches.slice(0, 1), ...append }
    entries.push((await withEngine(name, { updates }, (engine) => trainSteps(engine, step)))[0]!)
  }
  const [a, b] = entries as [JournalEntry, JournalEntry]
  expect(Math.abs(a.loss_plus! - b.loss_plus!)).toBeLessThan(1e-4)
  expect(Math.abs(a.loss_minus! - b.loss_minus!)).toBeLessThan(1e-4)
})
