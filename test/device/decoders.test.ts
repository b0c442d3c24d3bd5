// Llama, Mistral, Qwen, SmolLM, Phi and Gemma against Hugging Face `transformers`: every variant of
// test/fixtures/decoders on every device, through the public API; texts go beyond windows and original rope lengths.
// Alone: npx vitest run test/device/decoders.test.ts

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { packTexts } from '../../src/data/packing.ts'
import type { Sequence } from '../../src/data/types.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import { lossesOf, lossesOfTexts } from '../../src/engine/forward.ts'
import { DECODERS, DECODER_VARIANTS, hashedModel } from '../helpers/hashed.ts'
import { devices, expectBatch, openOn, type Expected } from '../helpers/parity.ts'
import { openRun } from '../helpers/runs.ts'

describe.each(devices)('decoders on $name', ({ options }) => {
  it.each(DECODER_VARIANTS)('%s gives the logits and losses of transformers', async (variant) => {
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

describe('longrope', () => {
  it('gives short texts their angles beside long ones that begin alike', async () => {
    const device = await openCpu()
    const engine = await openRun({ device }, await hashedModel('phi3-longrope'))
    try {
      // Original length: 16 tokens.
      const text = (length: number): Sequence => {
        const inputIds = Array.from({ length }, (_, t) => 3 + t)
        return { inputIds, labels: inputIds.map((id, t) => (t === length - 1 ? id : -100)) }
      }
      const texts = [text(16), text(17), text(30), text(12)]
      const alone = []
      for (const one of texts) alone.push((await lossesOf(engine, packTexts([one]), null))[0]![0]!)
      const [together] = await lossesOf(engine, packTexts(texts), null)
      expect([...together!]).toEqual(alone)
      expect([...(await lossesOfTexts(engine, texts))]).toEqual(alone)
    } finally {
      await engine.close()
      await device.close()
    }
  })
})
