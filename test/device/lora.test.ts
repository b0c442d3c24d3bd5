// LoRA as the target of MeZO against its equations in f64, and adapters in PEFT's format: base plus
// (alpha/r) B A is the exported model, for LoRA runs and for LOZO runs still in factors.
// Alone: npx vitest run test/device/lora.test.ts

import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { exportLora } from '../../src/export/adapter.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { isTarget, loraMethod, loraName, loraSelection } from '../../src/methods/lora.ts'
import { createSelection } from '../../src/methods/selection.ts'
import {
  exportedTensors,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
} from '../helpers/runs.ts'
import { EVERYTHING } from '../helpers/method-defaults.ts'
import { NOISES, type Noise } from '../../src/noise/distributions.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'
import { openDevices } from '../helpers/devices.ts'
import { unitAt } from '../reference/noise.ts'
import { meanLoss, readParameters, type Parameters } from '../reference/opt.ts'

const LAYOUT = fileURLToPath(new URL('../fixtures/layouts/pre-norm-tied', import.meta.url))
const SEED = 5
const [EPS, LR, STEPS] = [1e-3, 1e-2, 12]
const lora = { rank: 2, alpha: 6, targets: ['q_proj', 'fc1'] }
const batches = Array.from({ length: STEPS }, (_, i) => syntheticBatch(2, 6, 97, i))
const training = { batches: batches.map((b) => [b]), lr: LR, eps: EPS, weightDecay: 0 }
const folder = tempFolder()

/** MeZO-SGD on A and B in place; returns the effective weights and the projected gradients. */
function inPlace(
  theta: Parameters,
  config: Record<string, unknown>,
  start: Parameters,
  noise: Noise,
) {
  const own: Parameters = new Map([...start].map(([name, v]) => [name, Float64Array.from(v)]))
  const grads: number[] = []
  const effective = (at: Parameters): Parameters => {
    const merged = new Map(theta)
    for (const name of theta.keys()) {
      if (!isTarget(name, lora.targets)) continue
      const [a, b] = [at.get(loraName(name, 'lora_A'))!, at.get(loraName(name, 'lora_B'))!]
      const K = a.length / lora.rank
      const w = Float64Array.from(theta.get(name)!)
      w.forEach((_, i) => {
        for (let c = 0; c < lora.rank; c++) {
          const product = b[Math.floor(i / K) * lora.rank + c]! * a[c * K + (i % K)]!
          w[i]! += (lora.alpha / lora.rank) * product
        }
      })
      merged.set(name, w)
    }
    return merged
  }
  const moved = (step: number, scale: number): Parameters =>
    new Map(
      [...own].map(([name, v]) => {
        const key = noiseKey(SEED, step, name, 'z')
        return [name, v.map((value, i) => value + scale * unitAt(noise, key, i))]
      }),
    )
  batches.forEach((batch, step) => {
    const loss = (scale: number) => meanLoss(effective(moved(step, scale)), config, batch)
    const g = (loss(EPS) - loss(-EPS)) / (2 * EPS)
    grads.push(g)
    for (const [name, v] of moved(step, -LR * g)) own.set(name, v)
  })
  return { weights: effective(own), grads }
}

describe.each(openDevices())('LoRA on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  const open = (noise: Noise = 'gaussian') =>
    openRun(on, LAYOUT, {
      noise,
      selection: loraSelection(EVERYTHING),
      folds: false,
      method: loraMethod(lora),
    })

  it.each(NOISES)(
    "equals MeZO on A and B in f64, and leaves every other tensor's bits: %s",
    async (noise) => {
      const checkpoint = await openCheckpoint(LAYOUT)
      const base = await readParameters(checkpoint)
      const engine = await open(noise)
      try {
        const start: Parameters = new Map()
        for (const [name, { a, b }] of engine.state.lora!.pairs) {
          start.set(loraName(name, 'lora_A'), Float64Array.from(a))
          start.set(loraName(name, 'lora_B'), Float64Array.from(b))
          expect(b.every((value) => value === 0)).toBe(true)
          expect(Math.max(...a.map(Math.abs))).toBeLessThan(1 / Math.sqrt(a.length / lora.rank))
        }
        const expected = inPlace(base, checkpoint.config, start, noise)
        const journal = await trainSteps(engine, training)
        journal.forEach(({ projected_grad }, i) => {
          const g = expected.grads[i]!
          expect(Math.abs(projected_grad - g)).toBeLessThan(2e-3 * Math.abs(g) + 5e-3)
        })
        for (const [name, bytes] of await exportedTensors(engine)) {
          const found = new Float32Array(bytes.buffer)
          const own = expected.weights.get(name)!
          const off = own.reduce((most, v, i) => Math.max(most, Math.abs(v - found[i]!)), 0)
          const moved = base.get(name)!.reduce((m, v, i) => Math.max(m, Math.abs(v - found[i]!)), 0)
          expect(off, name).toBeLessThan(2e-4)
          if (isTarget(name, lora.targets)) expect(moved, name).toBeGreaterThan(5e-3)
          else expect(moved, name).toBe(0)
        }
      } finally {
        await engine.close()
      }
    },
  )

  it('is written as an adapter whose product with the base is the exported model', async () => {
    const engine = await open()
    try {
      await trainSteps(engine, training)
      await expectAdapter(engine, join(folder, `${test.name}-lora`), 6 / 2)
    } finally {
      await engine.close()
    }
  })

  it('is what a LOZO run in factors is written as', async () => {
    const selection = createSelection({
      seed: 5,
      layers: 2,
      trainOnly: ['*proj.weight', '*fc?.weight'],
    })
    const engine = await openRun(on, LAYOUT, { method: 'lozo', selection, window: 5 })
    try {
      await trainSteps(engine, training)
      await expectAdapter(engine, join(folder, `${test.name}-lozo`), 1)
    } finally {
      await engine.close()
    }
  })

  it('is refused for what no adapter can hold', async () => {
    for (const [options, message] of [
      [{ method: 'mezo-sgd' }, 'only LOZO and LoRA runs'],
      [{ method: 'kronzo' }, 'only LOZO and LoRA runs'],
      [{ method: 'lozo' }, 'was trained too'],
    ] as const) {
      const engine = await openRun(on, LAYOUT, options)
      await expect(exportLora(engine, join(folder, 'no'), 'base')).rejects.toThrow(message)
      await engine.close()
    }
  })
})

async function expectAdapter(engine: Engine, dir: string, scaling: number) {
  await exportLora(engine, dir, 'facebook/opt-test')
  const config = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8')) as {
    r: number
    lora_alpha: number
    target_modules: string[]
  }
  expect(config.lora_alpha / config.r).toBe(scaling)
  const tensors = readSafetensors(await readFile(join(dir, 'adapter_model.safetensors')))
  expect(tensors.size).toBe(config.target_modules.length * 2)
  const base = await readParameters(await openCheckpoint(LAYOUT))
  const exported = await exportedTensors(engine)
  for (const module of config.target_modules) {
    const of = (part: string) => tensors.get(`base_model.model.${module}.${part}.weight`)!
    const [a, b] = [of('lora_A'), of('lora_B')]
    expect(a.shape[0]).toBe(config.r)
    const K = a.shape[1]!
    const found = new Float32Array(exported.get(`${module}.weight`)!.buffer)
    base.get(`${module}.weight`)!.forEach((w, i) => {
      let sum = 0
      for (let c = 0; c < config.r; c++) {
        sum += b.values[Math.floor(i / K) * config.r + c]! * a.values[c * K + (i % K)]!
      }
      expect(Math.abs(w + scaling * sum - found[i]!)).toBeLessThan(1e-6)
    })
  }
}
