// The alphabet of a character-level model: that of its data, told by meta.json, and looked for nowhere else.
// Alone: npx vitest run test/unit/character-models.test.ts

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createModel } from '../../models/index.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { tokenizerOf } from '../../src/data/model-tokenizer.ts'
import { checkSameTokens, readMeta, type Meta } from '../../src/data/prepared.ts'
import { startTokens } from '../../src/generate/sample.ts'
import { FIXTURES, folder, GPT2, sentence } from '../helpers/model-copies.ts'

afterEach(() => vi.unstubAllEnvs())

describe('the alphabet of a character-level model', () => {
  const meta = (itos: readonly string[], change: object = {}): Meta =>
    ({
      dataset: 'set',
      tokenizer: 'char',
      vocab_size: itos.length,
      train_tokens: 9,
      val_tokens: 1,
      itos,
      ...change,
    }) as Meta
  const gpt2 = meta([], { tokenizer: 'gpt2', vocab_size: 50257, itos: undefined })
  const use = (dir: string, vocabSize: number) => ({
    dir,
    model: { modelType: 'nanogpt', vocabSize },
  })

  it('must be that of the data, not of its size only', async () => {
    const dir = folder(join(FIXTURES, 'gpt/nanogpt'), { 'meta.json': meta(['a', 'b', 'c']) })
    await checkSameTokens(use(dir, 3), meta(['a', 'b', 'c']))
    await checkSameTokens(use(dir, 3), meta(['a', 'b']))
    expect(await sentence(() => checkSameTokens(use(dir, 3), meta(['a', 'x', 'c'])))).toMatch(
      /^set has another alphabet than .*: id 1 is "x" there and "b" here; take data/,
    )
    expect(await sentence(() => checkSameTokens(use(dir, 3), meta(['a', 'b', 'c', 'd'])))).toMatch(
      /id 3/,
    )
    expect(await sentence(() => checkSameTokens(use(dir, 50257), gpt2))).toMatch(
      /set is made of GPT-2's BPE, .* of characters: take data/,
    )
  })

  it("is none where the model speaks GPT-2's BPE", async () => {
    const dir = folder(join(FIXTURES, 'gpt/nanogpt'))
    await checkSameTokens(use(dir, 50304), gpt2)
    await checkSameTokens(use(dir, 65), meta(['a', 'b']))
    expect(await sentence(() => checkSameTokens(use(dir, 50304), meta(['a', 'b'])))).toMatch(
      /set is made of characters, .* of GPT-2's BPE/,
    )
  })

  it('is refused where meta.json does not make sense', async () => {
    for (const wrong of [
      meta(['a', 'a']),
      meta(['a', 'bc']),
      meta(['a'], { vocab_size: 2 }),
      meta(['a', ''], {}),
      meta([], { itos: { 0: 'a' } }),
      meta(['a'], { dataset: 5 }),
      meta(['a'], { tokenizer: 'bytes' }),
      [meta(['a'])],
    ]) {
      const dir = folder(join(FIXTURES, 'gpt/nanogpt'), { 'meta.json': wrong })
      expect(await sentence(() => readMeta(dir))).toMatch(/meta.json: expected dataset, vocab_size/)
    }
    const deep = folder(GPT2, { 'meta.json': '['.repeat(20_000) })
    expect(await sentence(() => readMeta(deep))).toMatch(/more than 100 deep/)
  })

  it('is that of prompts, whose files may end lines in any way', async () => {
    const dir = folder(join(FIXTURES, 'gpt/nanogpt'), { 'meta.json': meta(['\n', 'a', 'b']) })
    const tokenizer = await tokenizerOf(use(dir, 65))
    const path = join(dir, 'start.txt')
    writeFileSync(path, 'a\r\nb\rab')
    expect(await startTokens(`FILE:${path}`, tokenizer)).toEqual([1, 0, 2, 0, 1, 2])
    expect(await sentence(() => startTokens('abc', tokenizer))).toMatch(/no token for "c"/)
    expect(await sentence(() => startTokens('', tokenizer))).toMatch(/--start is empty/)
    expect(await sentence(() => startTokens('\u{1f600}'.repeat(20), tokenizer))).toMatch(
      /for "😀":/,
    )
  })

  it('is not looked for in the folders of other models', async () => {
    const dir = folder(join(FIXTURES, 'tiny-opt'), {
      'meta.json': { lang: 'en', name: 'core_web' },
    })
    const model = createModel((await openCheckpoint(dir)).config)
    expect((await tokenizerOf({ dir, model })).vocabSize).toBe(4096)
  })
})
