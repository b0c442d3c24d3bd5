// Prefix tuning: a prefix of real activations is the text it was made of, its training is MeZO's in f64,
// caches and sweeps see it, and its adapters are in PEFT's format. Runs: test/runs/prefix-runs.test.ts.
// Alone: npx vitest run test/device/prefix.test.ts

import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { prefixName, withPrefix } from '../../models/prefix.ts'
import { exportLora, exportPrefix } from '../../src/export/adapter.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { generate, generateMany } from '../../src/generate/generate.ts'
import { createSelection } from '../../src/methods/selection.ts'
import {
  logitsAfter,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'
import { EVERYTHING } from '../helpers/method-defaults.ts'
import { NOISES } from '../../src/noise/distributions.ts'
import { noiseKey, threefry2x32 } from '../../src/noise/threefry.ts'
import {
  prefixSelection,
  withPrefixFile,
  writePrefix,
  PREFIX_FILE,
} from '../../src/engine/prefix.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { openDevices } from '../helpers/devices.ts'
import { fixtureModel } from '../helpers/hashed.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'
import { unitAt } from '../reference/noise.ts'
import { decode, meanLoss, readParameters, type LayerPrefix } from '../reference/opt.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const LAYOUT = join(FIXTURES, 'layouts/pre-norm-tied')
const [SEED, N] = [5, 3]
const [EPS, LR, STEPS] = [1e-3, 1e-2, 12]
const folder = tempFolder()

/** The tokens that the initial prefix is made of. */
function drawn(n: number, vocab: number): number[] {
  const { k0, k1 } = noiseKey(SEED, 0, 'prefix', 'init')
  return Array.from({ length: n }, (_, i) => threefry2x32(k0, k1, i, 0)[0] % vocab)
}

describe.each(openDevices())('a prefix on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  /** An engine that trains a prefix, with its initial values. */
  async function open(layout = LAYOUT, options: RunOptions = {}): Promise<Engine> {
    const base = await openRun(on, layout)
    await writePrefix(base, N, SEED, join(folder, PREFIX_FILE))
    await base.close()
    const checkpoint = await openCheckpoint(layout)
    return openRun(on, layout, {
      checkpoint: await withPrefixFile(checkpoint, folder),
      model: withPrefix(createModel(checkpoint.config), N),
      selection: prefixSelection(EVERYTHING),
      seed: SEED,
      ...options,
    })
  }

  it.each([
    ...['layouts/pre-norm-tied', 'layouts/post-norm-proj', 'gpt/gpt2-hub', 'gpt/nanogpt'],
    ...['decoders/llama3', 'decoders/qwen3', 'decoders/gemma2'],
  ])('of real activations is the text before the text: %s', async (name) => {
    const layout = await fixtureModel(name)
    const text = [7, 3, 31, 12, 9]
    const plain = await openRun(on, layout)
    const before = drawn(N, plain.model.vocabSize)
    const expected = await logitsAfter(plain, [...before, ...text])
    await plain.close()
    const engine = await open(layout)
    try {
      const found = await logitsAfter(engine, text)
      const off = expected.reduce((most, v, i) => Math.max(most, Math.abs(v - found[i]!)), 0)
      expect(off).toBeLessThan(2e-5)
    } finally {
      await engine.close()
    }
  })

  it.each(NOISES)(
    'trains as MeZO does in f64, and nothing else of the model moves: %s',
    async (noise) => {
      const checkpoint = await openCheckpoint(LAYOUT)
      const theta = await readParameters(checkpoint)
      const batches = Array.from({ length: STEPS }, (_, i) => syntheticBatch(2, 6, 97, i))
      const ids = drawn(N, 97)
      const start = decode(
        theta,
        checkpoint.config,
        ids,
        ids.map(() => 1),
      ).layers
      const own = new Map(
        start.flatMap(({ keys, values }, layer) => [
          [prefixName(layer, 'keys'), Float64Array.from(keys.flatMap((row) => [...row]))] as const,
          [
            prefixName(layer, 'values'),
            Float64Array.from(values.flatMap((row) => [...row])),
          ] as const,
        ]),
      )
      const moved = (step: number, scale: number) =>
        new Map(
          [...own].map(([name, v]) => {
            const key = noiseKey(SEED, step, name, 'z')
            return [name, v.map((x, i) => x + scale * unitAt(noise, key, i))]
          }),
        )
      const layersOf = (at: ReadonlyMap<string, Float64Array>): LayerPrefix[] =>
        start.map(({ keys }, layer) => {
          const C = keys[0]!.length
          const rows = (part: 'keys' | 'values') =>
            keys.map((_, t) => at.get(prefixName(layer, part))!.subarray(t * C, (t + 1) * C))
          return { keys: rows('keys'), values: rows('values') }
        })
      const engine = await open(LAYOUT, { noise })
      try {
        const before = new Map([...engine.vectors.values].map(([name, v]) => [name, v.slice()]))
        const initial = Math.max(
          ...[...own].flatMap(([name, v]) =>
            [...v].map((x, i) => Math.abs(x - before.get(name)![i]!)),
          ),
        )
        expect(initial).toBeLessThan(1e-5)
        const journal = await trainSteps(engine, {
          batches: batches.map((b) => [b]),
          lr: LR,
          eps: EPS,
          weightDecay: 0,
        })
        batches.forEach((batch, step) => {
          const loss = (scale: number) =>
            meanLoss(theta, checkpoint.config, batch, layersOf(moved(step, scale)))
          const g = (loss(EPS) - loss(-EPS)) / (2 * EPS)
          expect(Math.abs(journal[step]!.projected_grad - g)).toBeLessThan(
            2e-3 * Math.abs(g) + 5e-3,
          )
          for (const [name, v] of moved(step, -LR * g)) own.set(name, v)
        })
        for (const [name, found] of engine.vectors.values) {
          const from = before.get(name)!
          if (!own.has(name)) expect(found.every((v, i) => v === from[i])).toBe(true)
          else {
            const off = own.get(name)!.reduce((m, v, i) => Math.max(m, Math.abs(v - found[i]!)), 0)
            expect(off, name).toBeLessThan(3e-4)
            expect(found.some((v, i) => Math.abs(v - from[i]!) > 1e-3)).toBe(true)
          }
        }
        expect(engine.model.matrices.every(({ name }) => engine.store.version(name) === 0)).toBe(
          true,
        )
        const { ledger } = engine.device
        expect(ledger.peak().totalBytes).toBeLessThanOrEqual(engine.plannedPeakBytes * 1.05)
        await expectAdapter(engine, join(folder, `${test.name}-${noise}-adapter`))
      } finally {
        await engine.close()
      }
    },
    60_000,
  )

  it('moves in the drawn layers only with --layers-per-step', async () => {
    const all = createSelection({ seed: SEED, layers: 2, layersPerStep: 1 })
    const engine = await open(LAYOUT, { selection: prefixSelection(all) })
    try {
      const before = new Map([...engine.vectors.values].map(([name, v]) => [name, v.slice()]))
      await trainSteps(engine, {
        batches: [[syntheticBatch(2, 6, 97, 0)]],
        lr: LR,
        eps: EPS,
        weightDecay: 0,
      })
      const still = [0, 1].filter((layer) => {
        const name = prefixName(layer, 'keys')
        return engine.vectors.values.get(name)!.every((v, i) => v === before.get(name)![i])
      })
      expect(still.length).toBe(1)
    } finally {
      await engine.close()
    }
  })

  it('is seen by caches, beams and sweeps as by passes over the whole text', async () => {
    const engine = await open()
    try {
      const prompts = [[5, 17, 29], [40, 3, 8, 60, 2, 31], [9]]
      const options = {
        maxNewTokens: 7,
        temperature: 0,
        topK: 0,
        topP: 1,
        seed: 3,
        padId: 1,
        eosIds: [],
      }
      const expected: number[][] = []
      for (const prompt of prompts) {
        const text: number[] = []
        while (text.length < 7) {
          const logits = await logitsAfter(engine, [...prompt, ...text])
          text.push(logits.indexOf(logits.reduce((a, b) => Math.max(a, b))))
        }
        expected.push(text)
      }
      expect(await generate(engine, prompts, options)).toEqual(expected)
      expect(await generateMany(engine, prompts, options)).toEqual(expected)
      const beams = await generate(engine, prompts.slice(0, 2), { ...options, numBeams: 3 })
      const alone = await generate(engine, prompts.slice(1, 2), { ...options, numBeams: 3 })
      expect(beams[1]).toEqual(alone[0])
    } finally {
      await engine.close()
    }
  })
})

async function expectAdapter(engine: Engine, dir: string) {
  await expect(exportLora(engine, dir, 'base')).rejects.toThrow('leave out --as-lora')
  await exportPrefix(engine, dir, 'facebook/opt-test')
  const config = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8')) as object
  const { layers, hidden, attention } = engine.model
  expect(config).toMatchObject({
    peft_type: 'PREFIX_TUNING',
    num_virtual_tokens: N,
    num_layers: layers,
    token_dim: hidden,
    num_attention_heads: attention.heads,
    base_model_name_or_path: 'facebook/opt-test',
  })
  const tensors = readSafetensors(await readFile(join(dir, 'adapter_model.safetensors')))
  const { shape, values } = tensors.get('prompt_embeddings')!
  expect(shape).toEqual([N, layers * 2 * hidden])
  // [n, layers, (key, value), C]
  for (const [layer, i, part] of [
    [0, 0, 'keys'],
    [1, 1, 'values'],
  ] as const) {
    const own = engine.vectors.values.get(prefixName(layer, part))!
    for (let t = 0; t < N; t++) {
      const at = (t * layers * 2 + layer * 2 + i) * hidden
      expect([...values.slice(at, at + hidden)]).toEqual([
        ...own.subarray(t * hidden, (t + 1) * hidden),
      ])
    }
  }
}
