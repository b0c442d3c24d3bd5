// GPT-2 against Hugging Face `transformers` and nanoGPT against its own network, on every device.
// Expected numbers come from scripts/make-gpt-fixtures.py; see test/fixtures/README.md.
// Alone: npx vitest run test/gpt.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'vitest'
import { devices, expectParity } from './helpers/parity.ts'

const FIXTURES = fileURLToPath(new URL('./fixtures/gpt/', import.meta.url))

describe.each(devices)('GPT on $name', ({ options }) => {
  it.each(['gpt2-hub', 'gpt2-untied', 'nanogpt'])(
    'gives the logits and losses of PyTorch for %s',
    (layout) => expectParity(join(FIXTURES, layout), options),
  )
})
