// Tokenizers of GPT-2's kind, from all forms of their files: ids are those that the Python packages `tokenizers`
// 0.23 and `transformers` 5.24 give for the same files. Damaged files: tokenizer-damaged.test.ts.
// Alone: npx vitest run test/unit/tokenizer.test.ts

import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { FILES, folder, TOKENIZER_JSON, VOCAB } from '../helpers/small-tokenizer.ts'

const HF_IDS: [string, number[]][] = [
  ['', [2]],
  ['the great', [2, 87, 261, 267]],
  [
    "It was terrible and great.\n\nthe cat's",
    [
      2, 44, 87, 224, 90, 68, 86, 274, 224, 68, 81, 71, 267, 17, 202, 202, 87, 261, 224, 70, 266,
      278,
    ],
  ],
  [
    'café 日本 😀',
    [2, 70, 68, 73, 275, 224, 166, 249, 102, 166, 254, 109, 224, 176, 257, 250, 226],
  ],
  ['a   b \t\r\n c', [2, 68, 277, 224, 69, 224, 201, 205, 202, 224, 70]],
  [
    'x\u0085y \ufeffz\u00a0\u3000w',
    [2, 91, 130, 231, 92, 224, 175, 123, 127, 93, 130, 258, 163, 226, 226, 90],
  ],
  ['It</s>was<pad><s>', [2, 44, 87, 2, 90, 68, 86, 1, 31, 86, 33]],
  ["1234 ½ 'S 's", [2, 20, 21, 22, 23, 224, 130, 125, 224, 10, 54, 224, 10, 86]],
]

const json = (value: unknown) => ({ 'tokenizer.json': JSON.stringify(value) })
const loaded = async (files: Record<string, string>) => loadTokenizer(await folder(files))
const small = () => loaded(FILES)

describe('a tokenizer', () => {
  it.each([
    ['vocab.json and merges.txt', FILES],
    ['a folder whose settings ask for no BOS', { ...FILES, 'tokenizer_config.json': '{}' }],
    ['tokenizer.json', json(TOKENIZER_JSON)],
    ['tokenizer.json before the other two', { ...json(TOKENIZER_JSON), 'vocab.json': 'broken' }],
  ])('from %s gives the ids that Hugging Face gives', async (name, files) => {
    const tokenizer = await loaded(files)
    const bos = !name.includes('no BOS')
    for (const [text, ids] of HF_IDS) {
      expect(tokenizer.encode(text), text).toEqual(bos ? ids : ids.slice(1))
      expect(tokenizer.encode(text, { bos: false }), text).toEqual(ids.slice(1))
    }
    const { bosId, eosId, padId, vocabSize } = tokenizer
    expect({ bosId, eosId, padId, vocabSize }).toEqual({
      bosId: 2,
      eosId: 2,
      padId: 1,
      vocabSize: Object.keys(VOCAB).length,
    })
  })

  it('takes a folder with no settings at all for OPT, which begins with </s>', async () => {
    const { 'vocab.json': vocab, 'merges.txt': merges } = FILES
    const tokenizer = await loaded({ 'vocab.json': vocab, 'merges.txt': merges })
    expect(tokenizer.encode('a')).toEqual([2, 68])
  })

  it('adds no BOS where the rules of the folder add none', async () => {
    const tokenizer = await loaded(json({ ...TOKENIZER_JSON, post_processor: null }))
    expect(tokenizer.encode('a')).toEqual([68])
  })

  it('decodes as Hugging Face does, unknown ids left out', async () => {
    const { decode } = await small()
    expect(decode([2, 262, 267, 1, 3, 69], { skipSpecial: true })).toBe(' the great<unk>b')
    expect(decode([2, 262])).toBe('</s> the')
    expect(decode([70, 168])).toBe('c\ufffd')
    expect(decode([70, 279, 5000, -1, 0.5, 69])).toBe('cb')
    expect(decode([])).toBe('')
    expect(decode([2, 1], { skipSpecial: true })).toBe('')
  })

  it('returns any text unchanged from encode and decode', async () => {
    const { encode, decode } = await small()
    for (let i = 0; i < 300; i++) {
      const units = Array.from(
        { length: i % 40 },
        (_, j) => ((i * 7919 + j * j * 104729) % 0x1fff) + 1,
      )
      const text = String.fromCodePoint(...units)
      expect(decode(encode(text, { bos: false }))).toBe(text)
    }
  })

  it('gives a long text, which it cuts into pieces, the ids of the whole', async () => {
    const { encode, decode } = await small()
    const paragraph = "the great cat's\n\n  terrible</s>  café \u0085 x\ufeff "
    const parts = Array.from({ length: 9000 }, (_, i) => paragraph.slice(i % 7, 20 + (i % 29)))
    const text = parts.join('')
    const whole = await loaded(json(uncut()))
    const ids = encode(text)
    expect(text.length).toBeGreaterThan(3 * 2 ** 16)
    expect(ids).toEqual(whole.encode(text))
    expect(decode(ids.slice(1))).toBe(text)
    const unbroken = 'a'.repeat(150_000)
    expect(encode(unbroken, { bos: false })).toHaveLength(150_000)
  })

  it('names the token of an id', async () => {
    const { tokenOf } = await small()
    expect([2, 262, 999].map(tokenOf)).toEqual(['</s>', 'Ġthe', undefined])
  })

  it('pads with the end token where no padding token is named', async () => {
    const vocab = { ...VOCAB, '<nopad>': 1 } as Record<string, number>
    delete vocab['<pad>']
    const added = [TOKENIZER_JSON.added_tokens[1]]
    const model = { ...TOKENIZER_JSON.model, vocab }
    const tokenizer = await loaded(json({ ...TOKENIZER_JSON, added_tokens: added, model }))
    expect(tokenizer.padId).toBe(2)
  })
})

/** The same tokenizer with an added token that holds a space, for which texts are never cut. */
function uncut() {
  const { model, added_tokens: added } = TOKENIZER_JSON
  const id = Object.keys(VOCAB).length
  const spaced = { ...added[0], id, content: 'never there' }
  return { ...TOKENIZER_JSON, added_tokens: [...added, spaced], model }
}

describe('the settings beside a vocabulary', () => {
  interface Case {
    readonly name: string
    readonly kind: string
    readonly files: Readonly<Record<string, { readonly model?: object }>>
    readonly bos: number
    readonly eos: number
    readonly pad: number | null
    readonly size: number
    readonly texts: readonly { text: string; ids: number[]; decoded: string; visible: string }[]
  }
  const { vocabularies, merges, cases } = JSON.parse(
    readFileSync(new URL('../fixtures/tokenizers.json', import.meta.url), 'utf8'),
  ) as { vocabularies: Record<string, string[]>; merges: string[]; cases: Case[] }

  function filesOf({ kind, files }: Case): Record<string, string> {
    const vocab = Object.fromEntries(vocabularies[kind]!.map((token, id) => [token, id]))
    const texts = Object.entries(files).map(([name, content]) => {
      const model = content.model && { model: { ...content.model, vocab, merges } }
      return [name, JSON.stringify({ ...content, ...model })] as const
    })
    return {
      'config.json': JSON.stringify({ model_type: kind }),
      'vocab.json': JSON.stringify(vocab),
      'merges.txt': ['#version: 0.2', ...merges, ''].join('\n'),
      ...Object.fromEntries(texts),
    }
  }

  it.each(cases.map((each) => [each.name, each] as const))(
    'are obeyed as transformers does: %s',
    async (_, each) => {
      const tokenizer = await loaded(filesOf(each))
      const { bosId, eosId, padId, vocabSize } = tokenizer
      const padding = each.pad ?? padId
      expect({ bosId, eosId, padId, vocabSize }).toEqual({
        bosId: each.bos,
        eosId: each.eos,
        padId: padding,
        vocabSize: each.size,
      })
      for (const { text, ids, decoded, visible } of each.texts) {
        expect(tokenizer.encode(text), text).toEqual(ids)
        expect(tokenizer.decode(ids), text).toBe(decoded)
        expect(tokenizer.decode(ids, { skipSpecial: true }), text).toBe(visible)
      }
    },
  )

  it('give a long text, which is cut into pieces, the ids of the whole, with a space before it', async () => {
    const spaced = cases.find(({ name }) => name === 'a space before texts')!
    const { encode } = await loaded(filesOf(spaced))
    const [line, count] = [' the great\n\nthe\nx', 20_000]
    const more = Array.from({ length: count }, () => encode(line)).flat()
    expect(encode('the' + line.repeat(count))).toEqual([...encode('the'), ...more])
  })

  it('may leave blank lines and spaces in merges.txt', async () => {
    const plain = cases.find(({ name }) => name === 'GPT-2 as published')!
    const slow = filesOf(plain)
    delete slow['tokenizer.json']
    const loose = ['#version: 0.2 ', '', ...merges.map((merge) => `${merge} \r`), ' ', '', '']
    const [a, b] = [await loaded(slow), await loaded({ ...slow, 'merges.txt': loose.join('\n') })]
    for (const { text, ids } of plain.texts) {
      expect(a.encode(text), text).toEqual(ids)
      expect(b.encode(text), text).toEqual(ids)
    }
  })

  it('of another tokenizer class than GPT-2 are refused where files of GPT-2 go with them', async () => {
    const plain = cases.find(({ name }) => name === 'GPT-2 without settings')!
    const settings = { 'tokenizer_config.json': '{"tokenizer_class":"Qwen2Tokenizer"}' }
    await expect(loaded({ ...filesOf(plain), ...settings })).rejects.toThrow(
      /tokenizer_config.json: .* but tokenizer_class is "Qwen2Tokenizer": take the model's/,
    )
  })
})

describe('a text with characters that the vocabulary lacks', () => {
  it('is refused, unless they are those of an added token', async () => {
    const vocab = Object.fromEntries(
      Object.keys(VOCAB)
        .filter((token) => !['Q', 'Ã', '©'].some((character) => token.includes(character)))
        .map((token, id) => [token, id]),
    )
    const merges = FILES['merges.txt'].replace('Ã ©\n', '')
    const size = Object.keys(vocab).length
    const added = { 'added_tokens.json': JSON.stringify({ '<Q>': size }) }
    const files = { ...FILES, 'vocab.json': JSON.stringify(vocab), 'merges.txt': merges, ...added }
    const { encode, decode } = await loaded(files)
    expect(decode(encode('a <Q> b', { bos: false }))).toBe('a <Q> b')
    expect(() => encode('a Q b')).toThrow(/^the model has no token for "Q": leave/)
    expect(() => encode('é<Q>Q')).toThrow(/no token for "é", "Q": leave/)
  })
})

describe('the tokenizer of the tiny OPT', () => {
  const dir = fileURLToPath(new URL('../fixtures/tiny-opt/', import.meta.url))
  const { tokens } = JSON.parse(readFileSync(`${dir}expected.json`, 'utf8')) as {
    tokens: { text: string; input_ids: number[] }[]
  }

  it('gives the ids that transformers gives, and the texts back', async () => {
    const { encode, decode } = await loadTokenizer(dir)
    expect(tokens.length).toBeGreaterThanOrEqual(12)
    for (const { text, input_ids: ids } of tokens) {
      expect(encode(text), text).toEqual(ids)
      expect(decode(ids.slice(1)), text).toBe(text)
    }
  })
})
