// GPT-2 against Hugging Face `transformers` and nanoGPT against its own network, on every device; and
// that fused, transposed and bias-less matrices train and are saved like any other.
// Expected numbers come from scripts/make-gpt-fixtures.py; see test/fixtures/README.md.
// Alone: npx vitest run test/device/gpt.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { zoInit, type ZoOptions } from '../../src/index.ts'
import { devices, expectParity, openOn } from '../helpers/parity.ts'
import { tempFolder } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/gpt/', import.meta.url))
const folder = tempFolder()

const inputIds = Array.from({ length: 4 }, (_, b) =>
  Array.from({ length: 16 }, (_, t) => (7 * t + 5 * b) % 60),
)
const batch = { inputIds, labels: inputIds }

describe.each(devices)('GPT on $name', ({ name, options }) => {
  it.each(['gpt2-hub', 'gpt2-untied', 'nanogpt'])(
    'gives the logits and losses of PyTorch for %s',
    (layout) => expectParity(join(FIXTURES, layout), options),
  )

  it.each<[string, string, ZoOptions]>([
    ['mezo-sgd', 'gpt2-hub', { method: 'mezo-sgd', lr: 1e-3, weightDecay: 0.1 }],
    ['lozo-m', 'gpt2-hub', { method: 'lozo-m', lr: 1e-3, rank: 2, window: 5 }],
    ['kronzo', 'gpt2-hub', { method: 'kronzo', lr: 1e-3, window: 5 }],
    ['lozo', 'nanogpt', { method: 'lozo', lr: 1e-3, rank: 1, window: 5 }],
  ])('%s lowers the loss of %s, and the saved model has it', async (method, layout, zoOptions) => {
    const out = join(folder, `${name}-${method}-${layout}`)
    const model = await openOn(join(FIXTURES, layout), options)
    let trained: number
    try {
      const before = (await model.forward(batch)).loss
      const zo = await zoInit(model, { eps: 1e-3, seed: 3, ...zoOptions })
      for (let step = 0; step < 60; step++) await zo.step(batch)
      trained = (await model.forward(batch)).loss
      expect(trained).toBeLessThan(before - 0.1)
      await zo.save(out)
    } finally {
      await model.close()
    }
    const saved = await openOn(out, options)
    try {
      expect(Math.abs((await saved.forward(batch)).loss - trained)).toBeLessThan(1e-5)
    } finally {
      await saved.close()
    }
  })
})
