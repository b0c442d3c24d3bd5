// Llama, Mistral, Qwen, SmolLM, Phi and Gemma against Hugging Face `transformers`: every variant of
// test/fixtures/decoders on every device, through the public API; texts go beyond windows and original rope lengths.
// Alone: npx vitest run test/device/decoders.test.ts

import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { Config } from '../../models/config.ts'
import { devices, expectBatch, openOn, type Expected } from '../helpers/parity.ts'
import { writeHashed } from '../helpers/hashed.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/decoders/', import.meta.url))
const VARIANTS = readdirSync(FIXTURES).map((file) => file.replace('.json', ''))

describe.each(devices)('decoders on $name', ({ options }) => {
  it.each(VARIANTS)('%s gives the logits and losses of transformers', async (variant) => {
    const text = await readFile(join(FIXTURES, `${variant}.json`), 'utf8')
    const { config, batches } = JSON.parse(text) as { config: Config; batches: Expected[] }
    expect(batches.length).toBeGreaterThan(3)
    const dir = join(temporaryFolder(), variant)
    await writeHashed(dir, config)
    const model = await openOn(dir, options)
    try {
      for (const batch of batches) await expectBatch(model, batch)
    } finally {
      await model.close()
    }
    expect(model.device.ledger.total()).toBe(0)
  })
})
