// Tokenizers of every family of models: 2,000 hard strings each give the ids and texts that Rust
// `tokenizers` 0.23 gives for the same tokenizer.json, and settings mean what they mean to `transformers`
// 5.24 (scripts/fixtures/tokenizers.py). GPT-2's and OPT's: tokenizer.test.ts.
// Alone: npx vitest run test/unit/tokenizer-families.test.ts

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { tokenizerOf } from '../../src/data/model-tokenizer.ts'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { hardStrings } from '../helpers/hard-strings.ts'
import { folder } from '../helpers/small-tokenizer.ts'

interface Family {
  readonly name: string
  readonly model_type: string
  readonly size: number
  readonly ids: string
  readonly decoded: string
  readonly visible: string
  readonly first: readonly number[][]
  readonly tokenizer: {
    readonly added_tokens: readonly { content: string }[]
    readonly model: { readonly vocab: Record<string, number> }
  }
  readonly settings: readonly {
    config: object
    bos: number | null
    eos: number | null
    pad: number | null
    letter: number[]
  }[]
}

const FIXTURES = new URL('../fixtures/tokenizer-families/', import.meta.url)
const FAMILIES = readdirSync(FIXTURES)
  .filter((name) => name !== 'pieces.json')
  .map((name) => JSON.parse(readFileSync(new URL(name, FIXTURES), 'utf8')) as Family)

const folderOf = ({ model_type, tokenizer }: Family, config: object) =>
  folder({
    'config.json': JSON.stringify({ model_type }),
    'tokenizer.json': JSON.stringify(tokenizer),
    'tokenizer_config.json': JSON.stringify(config),
  })

function digest(lines: readonly string[]): string {
  const hash = createHash('sha256')
  for (const line of lines) hash.update(`${line}\0`)
  return hash.digest('hex')
}

describe.each(FAMILIES.map((family) => [family.name, family] as const))(
  'the tokenizer of %s',
  (_, family) => {
    const strings = hardStrings(family.tokenizer.added_tokens.map(({ content }) => content))

    it('gives the ids and the texts of Hugging Face', async () => {
      const tokenizer = await loadTokenizer(await folderOf(family, family.settings[0]!.config))
      const encoded = strings.map((text) => tokenizer.encode(text))
      for (const [i, ids] of family.first.entries()) {
        expect(encoded[i], JSON.stringify(strings[i])).toEqual(ids)
      }
      expect(digest(encoded.map((ids) => ids.join(' ')))).toBe(family.ids)
      expect(digest(encoded.map((ids) => tokenizer.decode(ids)))).toBe(family.decoded)
      const visible = encoded.map((ids) => tokenizer.decode(ids, { skipSpecial: true }))
      expect(digest(visible)).toBe(family.visible)
      expect(tokenizer.vocabSize).toBeGreaterThanOrEqual(family.size)
    })

    it.each(family.settings.map((each) => [JSON.stringify(each.config), each] as const))(
      'with the settings %s has the special tokens of transformers',
      async (_, { config, bos, eos, pad, letter }) => {
        const tokenizer = await loadTokenizer(await folderOf(family, config))
        const { bosId, eosId, padId, suffix } = tokenizer
        expect({ bosId, eosId, padId }).toEqual({
          bosId: bos ?? eos,
          eosId: eos,
          padId: pad ?? eos,
        })
        expect([...tokenizer.encode('x'), ...suffix!]).toEqual(letter)
      },
    )

    it('gives a long text, which is cut into pieces, the ids of the whole', async () => {
      if (family.name === 'llama-always') return // whose merges cross words
      const tokenizer = await loadTokenizer(await folderOf(family, family.settings[0]!.config))
      const encode = (text: string) => tokenizer.encode(text, { bos: false })
      const some = strings.slice(0, 200).filter((text) => !/[^\p{L}\s]/u.test(text))
      const text = ` ${some.join(' and.\nThen\n')} end`
      const times = Math.ceil(2 ** 17 / text.length)
      const first = encode(text)
      const later = encode(text + text).slice(first.length)
      const all = [first, ...Array.from({ length: times - 1 }, () => later)].flat()
      expect(encode(text.repeat(times))).toEqual(all)
    })
  },
)

describe('a tokenizer.json of a family', () => {
  const named = (name: string) => FAMILIES.find((family) => family.name === name)!
  const changed = (name: string, change: object, model: object = {}) => {
    const { model_type, tokenizer, settings } = named(name)
    const made = { ...tokenizer, ...change, model: { ...tokenizer.model, ...model } }
    return folder({
      'config.json': JSON.stringify({ model_type }),
      'tokenizer.json': JSON.stringify(made),
      'tokenizer_config.json': JSON.stringify(settings[0]!.config),
    })
  }
  const split = (pattern: string) => ({
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  })
  const metaspace = { type: 'Metaspace', replacement: '\u2581', prepend_scheme: 'first' }
  const vocabulary = named('llama2').tokenizer.model.vocab
  const fewer = Object.fromEntries(
    Object.entries(vocabulary).filter(([token]) => token !== '<0x41>'),
  )
  const added = named('llama3').tokenizer.added_tokens.map((token, i) => ({
    ...token,
    id: 900 + i,
  }))

  it.each([
    [
      'a pattern that is not known',
      'llama3',
      { pre_tokenizer: split('(a+)+$') },
      {},
      /but pre_tokenizer is /,
    ],
    [
      'a pattern in a property of its prototype',
      'llama3',
      { pre_tokenizer: { __proto__: null } },
      {},
      /but pre_tokenizer is /,
    ],
    [
      'another normalizer',
      'qwen',
      { normalizer: { type: 'NFKC' } },
      {},
      /but normalizer is \{"type":"NFKC"\}/,
    ],
    [
      'a Metaspace that splits',
      'mistral',
      { pre_tokenizer: { ...metaspace, split: true } },
      {},
      /but pre_tokenizer is /,
    ],
    [
      'another decoder',
      'gemma',
      { decoder: { type: 'Metaspace' } },
      {},
      /but decoder is \{"type":"Metaspace"\}/,
    ],
    [
      'no byte fallback',
      'llama2',
      {},
      { byte_fallback: false },
      /but model.byte_fallback is false/,
    ],
    [
      'a byte without a token',
      'llama2',
      {},
      { vocab: fewer },
      /the vocabulary has no token <0x41>: expected one/,
    ],
    [
      'added tokens that Hugging Face gives other ids',
      'llama3',
      { added_tokens: added },
      {},
      /has id 900, but Hugging Face reads it as 564: expected/,
    ],
    ['Unigram', 'llama2', {}, { type: 'Unigram' }, /but model.type is "Unigram"/],
    ['dropout', 'llama2', {}, { dropout: 0.1 }, /but model.dropout is 0.1/],
  ] as const)('with %s is refused in one sentence', async (_, name, change, model, message) => {
    const dir = await changed(name, change, model)
    await expect(loadTokenizer(dir)).rejects.toThrow(message)
    await expect(loadTokenizer(dir)).rejects.toHaveProperty('name', 'UserError')
  })

  it('may have special tokens beyond the rows of the model, which texts may not', async () => {
    const dir = await changed('llama3', {})
    const rows = Object.keys(named('llama3').tokenizer.model.vocab).length + 2
    const model = { modelType: 'llama', vocabSize: rows }
    const tokenizer = await tokenizerOf({ dir, model })
    expect(tokenizer.encode('x<|end_of_text|>')).toEqual([rows - 2, expect.any(Number), rows - 1])
    expect(() => tokenizer.encode('x<|eot_id|>')).toThrow(
      `the text has the token "<|eot_id|>" (id ${rows + 1}), but the model has ${rows} tokens`,
    )
    await expect(tokenizerOf({ dir, model: { ...model, vocabSize: 300 } })).rejects.toThrow(
      /the tokenizer has 568 tokens, config.json means a vocab_size of 300; take/,
    )
  })

  it('decodes what continues a text with the space that stands before it', async () => {
    const { encode, decode } = await loadTokenizer(await changed('llama2', {}))
    const ids = encode('the hello world')
    for (let i = 1; i <= ids.length; i++) {
      const [begin, rest] = [decode(ids.slice(0, i)), decode(ids.slice(i), { continues: true })]
      expect(begin + rest).toBe('<s> the hello world')
    }
    expect(decode(ids, { skipSpecial: true })).toBe('the hello world')
  })

  it('ends a generated text by the ids of generation_config.json', async () => {
    const dir = await changed('llama3', {})
    await writeFile(join(dir, 'generation_config.json'), '{"eos_token_id":[565,567]}')
    const { eosId, eosIds } = await tokenizerOf({
      dir,
      model: { modelType: 'llama', vocabSize: 600 },
    })
    expect({ eosId, eosIds }).toEqual({ eosId: 565, eosIds: [565, 567] })
  })
})
