// Tokenizers of every family of models: 2,000 hard strings each give the ids and texts that Rust
// `tokenizers` 0.23 gives for the same tokenizer.json, and settings mean what they mean to `transformers`
// 5.24 (scripts/fixtures/tokenizers.py). GPT-2's and OPT's: tokenizer.test.ts.
// Alone: npx vitest run test/unit/tokenizer-families.test.ts

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
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
