// Data preparation: token counts and bits of nanoGPT's own, splits, texts in odd pieces, and batches.
// Alone: npx vitest run test/unit/prepare.test.ts

import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { characterTokenizer, loadGpt2Tokenizer } from '../../src/data/gpt-tokenizers.ts'
import { prepare } from '../../src/data/prepare.ts'
import { drawTexts, openTokenFile, readMeta, preparedTokenizer } from '../../src/data/prepared.ts'
import { packTexts } from '../../src/data/packing.ts'
import type { Sequence } from '../../src/data/types.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const folder = temporaryFolder()
const SHAKESPEARE = ['train', 'val'].map((part) =>
  fileURLToPath(new URL(`../../examples/tinyshakespeare/${part}.txt`, import.meta.url)),
)
const TEXT = SHAKESPEARE.map((path) => readFileSync(path, 'utf8')).join('')

// Of nanoGPT's own preparation: Python's sorted(set(data)) and tiktoken's encode_ordinary, uint16.
const CHAR_TRAIN = '6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f'
const CHAR_VAL = 'd37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1'
const BPE_TRAIN = '502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f'
const BPE_VAL = '68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b'

const idsOf = (dir: string, split: string) => {
  const bytes = readFileSync(join(dir, `${split}.bin`))
  return new Uint16Array(Uint8Array.from(bytes).buffer)
}
const sha = (dir: string, split: string) =>
  createHash('sha256')
    .update(readFileSync(join(dir, `${split}.bin`)))
    .digest('hex')

function file(name: string, content: string): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

describe('prepare', () => {
  it("makes nanoGPT's shakespeare_char", async () => {
    const outputDir = join(folder, 'char')
    const meta = await prepare('shakespeare_char', { inputs: SHAKESPEARE, outputDir })
    expect([meta.train_tokens, meta.val_tokens, meta.vocab_size]).toEqual([1003854, 111540, 65])
    expect(meta.itos!.join('')).toBe(
      "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    )
    expect(await readMeta(outputDir)).toEqual(meta)
    const tokenizer = await preparedTokenizer(meta)
    const text = tokenizer.decode([...idsOf(outputDir, 'train'), ...idsOf(outputDir, 'val')])
    expect(text === TEXT).toBe(true)
    expect(sha(outputDir, 'train')).toBe(CHAR_TRAIN)
    expect(sha(outputDir, 'val')).toBe(CHAR_VAL)
  })

  it("makes nanoGPT's shakespeare, bit for bit", async () => {
    const outputDir = join(folder, 'bpe')
    const meta = await prepare('shakespeare', { inputs: SHAKESPEARE, outputDir })
    expect([meta.train_tokens, meta.val_tokens, meta.vocab_size]).toEqual([301966, 36059, 50257])
    const tokenizer = await preparedTokenizer(meta)
    expect(tokenizer.decode([...idsOf(outputDir, 'val')])).toBe(TEXT.slice(1003854))
    expect(sha(outputDir, 'train')).toBe(BPE_TRAIN)
    expect(sha(outputDir, 'val')).toBe(BPE_VAL)
  })

  it('ends each document of openwebtext and holds one out of 2,000', async () => {
    const documents = Array.from({ length: 4100 }, (_, i) => `document ${i}`)
    const lines = documents.map((text) => JSON.stringify({ text })).join('\n')
    const outputDir = join(folder, 'owt')
    const meta = await prepare('openwebtext', { inputs: [file('owt.jsonl', lines)], outputDir })
    const tokenizer = await loadGpt2Tokenizer()
    const [train, val] = ['train', 'val'].map((split) =>
      tokenizer.decode([...idsOf(outputDir, split)]).split('<|endoftext|>'),
    ) as [string[], string[]]
    expect([train.pop(), val.pop()]).toEqual(['', '']) // behind the last end of text
    expect(val[0]).toBe('document 0')
    expect(val.length).toBeGreaterThanOrEqual(2)
    expect(val.length).toBeLessThanOrEqual(3)
    const byNumber = (a: string, b: string) => Number(a.slice(9)) - Number(b.slice(9))
    expect([...train, ...val].sort(byNumber)).toEqual(documents)
    expect(train).toEqual([...train].sort(byNumber))
    expect(meta.train_tokens + meta.val_tokens).toBe(
      idsOf(outputDir, 'train').length + idsOf(outputDir, 'val').length,
    )
  })

  it('reads characters beyond the first plane and line ends as Python does', async () => {
    const path = file('odd.txt', '\u{1f600}a\r\nb\rc\u{1f600}d\n\u{10000}e\ufffdf\r')
    const outputDir = join(folder, 'odd')
    const meta = await prepare('shakespeare_char', { inputs: [path], outputDir })
    const sorted = ['\n', 'a', 'b', 'c', 'd', 'e', 'f', '\ufffd', '\u{10000}', '\u{1f600}']
    expect(meta.itos).toEqual(sorted)
    expect([meta.train_tokens, meta.val_tokens]).toEqual([12, 2]) // int(14 * 0.9) = 12
    const tokenizer = characterTokenizer(sorted)
    expect(tokenizer.decode([...idsOf(outputDir, 'val')])).toBe('f\n')
  })

  it('refuses what it cannot use and leaves nothing behind', async () => {
    const outputDir = join(folder, 'none')
    const run = (inputs: string[], set: 'shakespeare' | 'openwebtext' = 'shakespeare') =>
      prepare(set, { inputs, outputDir })
    await expect(run([join(folder, 'absent.txt')])).rejects.toThrow('absent.txt')
    await expect(run([file('empty.txt', '')])).rejects.toThrow('too little text')
    const one = file('one.jsonl', '{"text":"a"}')
    await expect(run([one], 'openwebtext')).rejects.toThrow('train.bin would be empty')
    const wrong = file('wrong.jsonl', '{"text":"a"}\n{"content":"b"}')
    await expect(run([wrong], 'openwebtext')).rejects.toThrow('wrong.jsonl:2: expected a text')
    expect(existsSync(outputDir)).toBe(false)
    const full = file('full.txt', 'some words to be split in two parts')
    await expect(prepare('shakespeare', { inputs: [full], outputDir: folder })).rejects.toThrow(
      folder,
    )
  })
})

describe("GPT-2's tokenizer", () => {
  it('gives tiktoken’s ids, also where JavaScript sees spaces otherwise', async () => {
    const tokenizer = await loadGpt2Tokenizer()
    expect(tokenizer.encode('a\ufeffb \u0085c <|endoftext|>')).toEqual([
      64, 171, 119, 123, 65, 220, 126, 227, 66, 1279, 91, 437, 1659, 5239, 91, 29,
    ])
    expect(tokenizer.decode([15496, 995, 50256, 50300])).toBe('Hello world<|endoftext|>')
    expect(tokenizer.decode([15496, 995, 50256], { skipSpecial: true })).toBe('Hello world')
  })
})

describe('batches of windows', () => {
  it('label each token with the one after it and depend on the draw alone', async () => {
    const path = file('count.bin', '')
    writeFileSync(path, new Uint8Array(Uint16Array.from({ length: 50 }, (_, i) => i).buffer))
    const tokens = await openTokenFile(path)
    try {
      const shape = { batch: 64, tokens: 8, vocabSize: 50 }
      const draw = { seed: 1, purpose: 'train', step: 3, firstRow: 0 }
      const texts = await drawTexts(tokens, path, shape, draw)
      const ids = (list: readonly Sequence[]) => list.map(({ inputIds }) => inputIds)
      const starts = texts.map(({ inputIds }) => inputIds[0]!)
      expect(new Set(starts).size).toBeGreaterThan(20)
      expect(Math.max(...starts)).toBeLessThan(42)
      texts.forEach(({ inputIds, labels }, b) => {
        // One more than the window: the label of its last token.
        expect(inputIds).toEqual(Array.from({ length: 9 }, (_, t) => starts[b]! + t))
        expect(labels).toEqual([-100, ...inputIds.slice(1)])
      })
      const { packed, rows, targets, counts } = packTexts(texts)
      expect(counts).toEqual(texts.map(() => 8))
      expect(new Set(packed.positions)).toEqual(new Set([0, 1, 2, 3, 4, 5, 6, 7]))
      targets.forEach((id, i) => expect(id).toBe(packed.ids[rows[i]!]! + 1))
      // two micro-batches are the halves of one batch
      const half = { ...shape, batch: 32 }
      const first = await drawTexts(tokens, path, half, draw)
      const second = await drawTexts(tokens, path, half, { ...draw, firstRow: 32 })
      expect(ids([...first, ...second])).toEqual(ids(texts))
      const other = await drawTexts(tokens, path, shape, { ...draw, purpose: 'eval val' })
      expect(ids(other)).not.toEqual(ids(texts))
      await expect(drawTexts(tokens, path, { ...shape, vocabSize: 40 }, draw)).rejects.toThrow(
        "the model's vocabulary has 40",
      )
      await expect(drawTexts(tokens, path, { ...shape, tokens: 50 }, draw)).rejects.toThrow(
        'too few for a block size of 50',
      )
    } finally {
      await tokens.close()
    }
  })
})
