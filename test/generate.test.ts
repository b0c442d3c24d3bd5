// Generation with the key-value cache gives the tokens of full passes over the growing text, for
// ragged prompts, greedy and sampled, OPT and GPT-2, on each device; memory is as planned.
// Alone: npx vitest run test/generate.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Engine } from '../src/engine.ts'
import { generate, pick, type GenerateOptions } from '../src/generate.ts'
import { noiseKey, threefry2x32 } from '../src/noise/threefry.ts'
import { forward } from '../src/run.ts'
import { openDevices } from './helpers/devices.ts'
import { openRun, type OpenDevice } from './helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('./fixtures/', import.meta.url))
const PROMPTS = [[5, 17, 29], [40, 3, 8, 60, 2, 31], [9]] // prettier-ignore
const base: GenerateOptions = {
  ...{ maxNewTokens: 9, temperature: 0, topK: 0, topP: 1, seed: 3, padId: 1, eosId: -1 },
}

/** Token by token, each from a pass over one sequence alone. */
async function fullPasses(engine: Engine, options: GenerateOptions): Promise<number[][]> {
  const key = noiseKey(options.seed, 0, 'generate', 'sample')
  const made: number[][] = []
  for (const [b, prompt] of PROMPTS.entries()) {
    const text = [...prompt]
    for (let n = 0; n < options.maxNewTokens; n++) {
      const logits = new Float32Array(engine.model.vocabSize)
      const input = { inputIds: [text], attentionMask: [text.map(() => 1)] }
      await forward(engine, input, null, {
        kind: 'logits',
        rows: Uint32Array.of(text.length - 1),
        sink: (tile, data) => logits.set(data.subarray(0, tile.rows), tile.row0),
      })
      const token = pick(logits, options, threefry2x32(key.k0, key.k1, n, b)[0] / 2 ** 32)
      if (options.stopIds?.includes(token)) break
      text.push(token)
    }
    made.push(text.slice(prompt.length))
  }
  return made
}

describe.each(openDevices())('on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open(), memory: test.memory }
  })
  afterAll(() => on?.device.close())

  it.each([
    'layouts/pre-norm-tied',
    'layouts/post-norm-proj',
    'layouts/f16',
    'gpt/gpt2-hub',
    'gpt/nanogpt',
  ])('gives the same tokens with the cache as without: %s', async (layout) => {
    const engine = await openRun(on, join(FIXTURES, layout), { folds: false })
    try {
      const greedy = await generate(engine, PROMPTS, base)
      expect(greedy).toEqual(await fullPasses(engine, base))
      expect(greedy.every((tokens) => tokens.length === base.maxNewTokens)).toBe(true)
      const sampled = { ...base, temperature: 0.9, topK: 20, topP: 0.95 }
      expect(await generate(engine, PROMPTS, sampled)).toEqual(await fullPasses(engine, sampled))
      const stop = { ...base, stopIds: [greedy[1]![3]!] }
      const stopped = await generate(engine, PROMPTS, stop)
      expect(stopped).toEqual(await fullPasses(engine, stop))
      expect(stopped[1]!.length).toBeLessThan(4)
    } finally {
      await engine.close()
    }
  })

  it('holds what the plan says, cache included, and is refused without room for it', async () => {
    const device = await test.open()
    try {
      const fresh = { device, memory: test.memory }
      const dir = join(FIXTURES, 'layouts/pre-norm-tied')
      const engine = await openRun(fresh, dir, { folds: false })
      await generate(engine, PROMPTS, base)
      const { plan } = engine.workingSet({ probes: 1, batch: 3, tokens: 6, keys: 15 })
      expect(device.ledger.peak().totalBytes).toBe(plan.peakBytes)
      await engine.close()
      const small = await openRun(fresh, dir, { folds: false, budgetBytes: plan.peakBytes / 2 })
      await expect(generate(small, PROMPTS, base)).rejects.toThrow(/--memory .* is too small/)
      await small.close()
    } finally {
      await device.close()
    }
    expect(device.ledger.total()).toBe(0)
  })
})
