// Synthetic checkpoints: bytes are a pure function of the offset, streamed equals resident, plan
// equals ledger; sizes of models that exist nowhere here are planned at once.
// Alone: npx vitest run test/runs/synthetic.test.ts

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { bench } from '../../src/plan/bench.ts'
import { parseConfig } from '../../src/config/options.ts'
import { planReport } from '../../src/plan/report.ts'
import { silent } from '../../src/util/console.ts'
import { syntheticModel } from '../../src/engine/load.ts'
import { createModel } from '../../models/index.ts'
import { SYNTHETIC_SIZES } from '../../src/checkpoint/sizes.ts'
import { fillSynthetic, syntheticConfig } from '../../src/checkpoint/synthetic.ts'
import { here, hereJson, makeFolder } from '../helpers/cli.ts'

const stop = new AbortController().signal
const run = (size: string, options: Record<string, unknown>, layers?: number, steps = 2) => {
  const config = parseConfig({ device: 'cpu', batchSize: 2, maxLength: 12, steps, ...options })
  return bench(syntheticModel({ size, ...(layers && { layers }) }), config, silent, stop)
}

describe('the synthetic page', () => {
  it('gives every offset its own bytes, however they are cut', () => {
    const whole = new Uint8Array(3 * 2 ** 20)
    fillSynthetic(0, whole)
    for (const [at, length] of [
      [0, 10],
      [1_048_570, 100],
      [2_000_001, 1_100_000],
    ] as const) {
      const part = new Uint8Array(length)
      fillSynthetic(at, part)
      expect(Buffer.compare(part, whole.subarray(at, at + length))).toBe(0)
    }
    const far = new Uint8Array(16)
    fillSynthetic(349_209_180_160, far)
    expect(far.some((byte) => byte !== 0)).toBe(true)
  })
})

describe('a synthetic model', () => {
  it('has the parameters of its namesake', async () => {
    const millions: Record<string, number> = {
      'opt-125m': 125.2,
      'opt-350m': 331.2,
      'opt-1.3b': 1315.8,
      'opt-13b': 12853.5,
      'opt-175b': 174604.5,
      'smollm2-135m': 134.5,
      'llama-3.1-8b': 8030.3,
      'llama-3.1-405b': 405853.4,
      'qwen3-0.6b': 596.0,
      'gemma-3-1b': 999.9,
      'mistral-24b': 23572.4,
    }
    for (const size of SYNTHETIC_SIZES) {
      const model = createModel(syntheticConfig({ size }))
      expect(model.layers, size).toBeGreaterThan(10)
    }
    for (const [size, expected] of Object.entries(millions)) {
      const config = parseConfig({ device: 'cpu', batchSize: 1, maxLength: 2048, memory: '24GiB' })
      const started = performance.now()
      const { json } = await planReport(`synthetic:${size}`, config, silent)
      expect(performance.now() - started).toBeLessThan(60_000) // 2.5 s seen for opt-175b with nothing else running
      expect(json.parameters / 1e6).toBeCloseTo(expected, 0)
    }
  })

  it.each(['mezo-sgd', 'lozo', 'kronzo'])(
    'streams as it is resident, and peaks as planned: %s',
    async (method) => {
      const streamed = await run('opt-125m', { method, resident: 'none', slab: '4MiB' }, 1)
      const resident = await run('opt-125m', { method, resident: 'all' }, 1)
      expect(streamed.loss).toBe(resident.loss)
      expect(streamed.loss).toBeGreaterThan(5)
      expect(Number.isFinite(streamed.loss)).toBe(true)
      for (const result of [streamed, resident]) {
        expect(result.device_peak_bytes).toBe(result.planned_peak_bytes)
      }
      const weights = 2 * (4 * 768 ** 2 + 2 * 768 * 3072 + 50272 * 768)
      expect(streamed.upload_bytes).toBe(weights)
      expect(resident.upload_bytes).toBe(weights / 2) // in the first of two steps
      expect(streamed.download_bytes).toBe(0)
    },
  )

  it('has a device peak that does not depend on its depth', async () => {
    const peaks = []
    for (const layers of [1, 2, 4]) {
      const result = await run(
        'opt-350m',
        { method: 'lozo', resident: 'none', slab: '1B' },
        layers,
        1,
      )
      peaks.push(result.device_peak_bytes - result.device_bytes['resident']!)
    }
    expect(new Set(peaks).size).toBe(1)
  })

  it('runs a layer of OPT-13b at full width under 2 GiB', async () => {
    const options = { method: 'lozo', memory: '2GiB', batchSize: 1, maxLength: 16 }
    const result = await run('opt-13b', options, 1, 1)
    expect(result.device_peak_bytes).toBeLessThanOrEqual(2 * 2 ** 30)
    expect(Number.isFinite(result.loss)).toBe(true)
  })

  it('is a command line away', async () => {
    const plan = await hereJson([
      'plan',
      '--synthetic',
      'opt-175b',
      '--method',
      'lozo',
      '--batch-size',
      '1',
      '--max-length',
      '2048',
      '--memory',
      '8GiB',
      '--device',
      'cpu',
    ])
    expect(plan['device_peak_bytes']).toBeLessThanOrEqual(8 * 2 ** 30)
    const made = await hereJson([
      'bench',
      '--synthetic',
      'opt-125m',
      '--layers',
      '1',
      '--steps',
      '1',
      '--batch-size',
      '1',
      '--max-length',
      '8',
      '--device',
      'cpu',
    ])
    expect(made).toMatchObject({ layers: 1, method: 'mezo-sgd', steps: 1 })
    for (const [args, says] of [
      [['plan', '--synthetic', 'opt-9b'], 'opt-9b'],
      [['plan', 'synthetic:opt-13b/two'], 'number of layers'],
      [['bench'], '--synthetic SIZE'],
      [['bench', 'x', '--layers', '2'], '--layers needs --synthetic beside it'],
      [['bench', '--synthetic', 'opt-125m', '--layers', '0'], 'at least 1'],
    ] as const) {
      const { code, stderr } = await here(args)
      expect(code).toBe(2)
      expect(stderr).toContain(says)
    }
  })

  it('fine-tunes on random tokens, goes on with them, and becomes a real folder', async () => {
    const dir = makeFolder()
    try {
      const size = ['--synthetic', 'opt-125m', '--layers', '1']
      const run = [
        'finetune',
        ...size,
        '--batch-size',
        '2',
        '--max-length',
        '6',
        '--device',
        'cpu',
        '--lr',
        '1e-3',
        '--output-dir',
      ]
      const [whole, cut] = [join(dir, 'whole'), join(dir, 'cut')]
      const made = await hereJson([...run, whole, '--steps', '3'])
      expect(made).toMatchObject({ steps: 3, model_dir: null })
      await hereJson([...run, cut, '--steps', '1'])
      await hereJson([...run, cut, '--steps', '3', '--resume'])
      const journal = (of: string) => readFileSync(join(of, 'journal.jsonl'), 'utf8')
      expect(journal(cut)).toBe(journal(whole))

      const folder = join(dir, 'model')
      await hereJson(['convert', ...size, folder])
      const [real, synthetic] = await Promise.all(
        [[folder], size].map((model) =>
          hereJson([
            'bench',
            ...model,
            '--batch-size',
            '1',
            '--max-length',
            '6',
            '--device',
            'cpu',
            '--steps',
            '1',
          ]),
        ),
      )
      expect(real!['loss']).toBe(synthetic!['loss'])
      const refused = await here([...run, join(dir, 'refused'), '--train', 'data.jsonl'])
      expect(refused.code).toBe(2)
      expect(refused.stderr).toContain('random tokens')
    } finally {
      rmSync(dir, { recursive: true })
    }
  })
})
