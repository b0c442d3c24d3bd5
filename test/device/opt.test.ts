// OPT against Hugging Face `transformers`: every layout of test/fixtures on every device, through the
// public API. Expected numbers come from scripts/make-fixtures.py; see test/fixtures/README.md.
// Alone: npx vitest run test/device/opt.test.ts

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { loadTokenizer } from '../../src/index.ts'
import { devices, expectedOf, expectParity, LOGIT_TOLERANCE, openOn } from '../helpers/parity.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const LAYOUTS = readdirSync(join(FIXTURES, 'layouts')).filter((name) =>
  existsSync(join(FIXTURES, 'layouts', name, 'expected.json')),
)
/** The logits after the last token of a text. */
interface LastLogits {
  readonly text: string
  readonly top_ids: number[]
  readonly top_logits: number[]
}

describe.each(devices)('OPT on $name', ({ options }) => {
  it.each(LAYOUTS)('gives the logits and losses of transformers for %s', async (layout) => {
    await expectParity(join(FIXTURES, 'layouts', layout), options)
  })

  it('gives the next-token logits of transformers for the trained tiny OPT in f16', async () => {
    const dir = join(FIXTURES, 'tiny-opt')
    const prompts = await expectedOf<LastLogits[]>(dir, 'last_logits')
    expect(prompts.length).toBeGreaterThan(0)
    const tokenizer = await loadTokenizer(dir)
    const model = await openOn(dir, options)
    try {
      for (const { text, top_ids, top_logits } of prompts) {
        const ids = tokenizer.encode(text)
        const { logits } = await model.forward({ inputIds: [ids] }, { logits: true })
        const last = logits!.subarray(-logits!.length / ids.length)
        top_ids.forEach((id, i) => {
          expect(Math.abs(last[id]! - top_logits[i]!)).toBeLessThan(LOGIT_TOLERANCE)
        })
        const order = [...last.keys()].sort((a, b) => last[b]! - last[a]!)
        expect(order.slice(0, top_ids.length)).toEqual(top_ids)
      }
    } finally {
      await model.close()
    }
  })
})
