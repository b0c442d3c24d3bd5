// Llama, Mistral, Qwen, SmolLM, Phi and Gemma against Hugging Face `transformers`: every variant of
// test/fixtures/decoders on every device, through the public API; texts go beyond windows and original rope lengths.
// Alone: npx vitest run test/device/decoders.test.ts

import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { DECODERS, hashedModel } from '../helpers/hashed.ts'
import { devices, expectBatch, openOn, type Expected } from '../helpers/parity.ts'

const VARIANTS = readdirSync(DECODERS).map((file) => file.replace('.json', ''))

describe.each(devices)('decoders on $name', ({ options }) => {
  it.each(VARIANTS)('%s gives the logits and losses of transformers', async (variant) => {
    const text = await readFile(join(DECODERS, `${variant}.json`), 'utf8')
    const { batches } = JSON.parse(text) as { batches: Expected[] }
    expect(batches.length).toBeGreaterThan(3)
    const model = await openOn(await hashedModel(variant), options)
    try {
      for (const batch of batches) await expectBatch(model, batch)
    } finally {
      await model.close()
    }
    expect(model.device.ledger.total()).toBe(0)
  })
})
