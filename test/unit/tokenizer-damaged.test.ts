// Tokenizer files that are damaged, lie, or are of another kind: each is refused by name, and none
// reaches an object's prototype. What good ones give: tokenizer.test.ts.
// Alone: npx vitest run test/unit/tokenizer-damaged.test.ts

import { describe, expect, it } from 'vitest'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { FILES, folder, SPECIALS, TOKENIZER_JSON, VOCAB } from '../helpers/small-tokenizer.ts'

const json = (value: unknown) => ({ 'tokenizer.json': JSON.stringify(value) })
const loaded = async (files: Record<string, string>) => loadTokenizer(await folder(files))

describe('damaged tokenizer files', () => {
  const vocab = (change: Record<string, unknown>) => ({
    ...FILES,
    'vocab.json': JSON.stringify({ ...VOCAB, ...change }),
  })
  const merges = (text: string) => ({ ...FILES, 'merges.txt': text })
  const model = (change: object) =>
    json({ ...TOKENIZER_JSON, model: { ...TOKENIZER_JSON.model, ...change } })

  const beyond = {
    ...TOKENIZER_JSON.post_processor,
    special_tokens: { '</s>': { id: '</s>', ids: [9999], tokens: ['</s>'] } },
  }
  const bare = { ...TOKENIZER_JSON.post_processor, special_tokens: {} }
  const wordToken = JSON.stringify({
    added_tokens_decoder: { 280: { content: '<x>', single_word: true } },
  })

  it.each([
    ['no files', {}, /no tokenizer in .*: expected tokenizer.json, or vocab.json and merges.txt/],
    ['no merges', { 'vocab.json': '{"a":0}' }, /no tokenizer in/],
    ['bad JSON', { ...FILES, 'vocab.json': '{"a":' }, /vocab.json: not valid JSON/],
    [
      'an array',
      { ...FILES, 'vocab.json': '[1]' },
      /vocab.json must hold a JSON object, not \[1\]/,
    ],
    ['an empty vocabulary', { ...FILES, 'vocab.json': '{}' }, /vocab.json: the vocabulary must be/],
    [
      'no UTF-8',
      { ...FILES, 'merges.txt': Uint8Array.of(0x61, 0xff) },
      /merges.txt is not UTF-8 text .* offset 1/,
    ],
    ['a hole in the ids', vocab({ zz: 300 }), /token "zz" must be an integer from 0 to 279 .* 300/],
    ['a huge id', vocab({ zz: 2 ** 40 }), /"zz" must be an integer from 0/],
    ['a fraction', vocab({ zz: 1.5 }), /"zz" must be an integer .* 1.5/],
    ['a string id', vocab({ zz: '279' }), /"zz" must be an integer .* "279"/],
    ['an id twice', vocab({ zz: 7 }), /both have id 7, but ids must be unique/],
    ['an unknown left part', merges('#version: 0.2\nqq e\n'), /merge 1 .* "qq", which the vocab/],
    ['an unknown result', merges('#version: 0.2\nt h\n'), /merges.txt: merge 1 .* "th", which/],
    [
      'a word token',
      { ...FILES, 'tokenizer_config.json': wordToken },
      /tokenizer_config.json: the added token "<x>" is to be found as a whole word only/,
    ],
    ['a template without ids', json({ ...TOKENIZER_JSON, post_processor: bare }), /post_processor/],
    [
      'nesting',
      { ...FILES, 'vocab.json': '['.repeat(20_000) },
      /vocab.json: .* more than 100 deep/,
    ],
    [
      'a flag that is none',
      { ...FILES, 'tokenizer_config.json': '{"add_prefix_space":"yes"}' },
      /tokenizer_config.json: add_prefix_space must be true or false, not "yes"/,
    ],
    [
      'a number for a special token',
      { ...FILES, 'tokenizer_config.json': '{"bos_token":5}' },
      /tokenizer_config.json: the bos_token must be a text, not 5/,
    ],
    [
      'added tokens in a list',
      { ...FILES, 'added_tokens.json': '["<sep>"]' },
      /must hold a JSON obj/,
    ],
    [
      'an added id of text',
      { ...FILES, 'added_tokens.json': '{"<x>":"280"}' },
      /an id and a content/,
    ],
    ['an added id in a hole', { ...FILES, 'added_tokens.json': '{"<x>":999}' }, /"<x>" must be an/],
    [
      'a token with line ends',
      vocab({ ['\u001b[2J\n'.repeat(500)]: -1 }),
      /^[^\n\u001b]{0,200}token "\\u001b\[2J\\n[^\n\u001b]{0,300}, but it is -1$/,
    ],
    [
      'a template beyond the vocabulary',
      json({ ...TOKENIZER_JSON, post_processor: beyond }),
      /the post_processor puts id 9999 before or after a text, but there are 279 tokens/,
    ],
    [
      'nested settings',
      { ...FILES, 'tokenizer_config.json': `{"a":${'{"b":'.repeat(20_000)}` },
      /tokenizer_config.json: .* more than 100 deep/,
    ],
    ['three parts', merges('#version: 0.2\nh e\na b c\n'), /merges.txt:3: expected two tokens/],
    ['merges of another type', model({ merges: 7 }), /model.merges must be an array/],
    ['a merge of another type', model({ merges: [['h', 'e', 'x']] }), /merge 1: expected two/],
    ['a vocabulary of another type', model({ vocab: [['a', 0]] }), /the vocabulary must be/],
    ['WordPiece', model({ type: 'WordPiece' }), /only BPE tokenizers .* model.type is "WordPiece"/],
    ['byte fallback', model({ byte_fallback: true }), /model.byte_fallback is true/],
    ['a normalizer', json({ ...TOKENIZER_JSON, normalizer: { type: 'NFC' } }), /normalizer is/],
    [
      'a pattern of its own',
      json({ ...TOKENIZER_JSON, pre_tokenizer: { type: 'Split', pattern: { Regex: '(a+)+$' } } }),
      /but pre_tokenizer is \{"type":"Split"/,
    ],
    [
      'a template with an end token',
      json({ ...TOKENIZER_JSON, post_processor: { type: 'BertProcessing' } }),
      /post_processor .* is not supported/,
    ],
    ['added tokens of another type', json({ ...TOKENIZER_JSON, added_tokens: 1 }), /added_tokens/],
    ['an added token without an id', json({ ...TOKENIZER_JSON, added_tokens: [{}] }), /an added/],
    [
      'an unknown special token',
      { ...FILES, 'tokenizer_config.json': '{"pad_token":"[PAD]"}' },
      /the pad_token "\[PAD\]" is not in the vocabulary/,
    ],
    [
      'no special tokens',
      { 'vocab.json': '{"a":0}', 'merges.txt': '' },
      /the vocabulary has no <\/s>, and tokenizer_config.json names no bos_token/,
    ],
  ])('with %s are refused in one sentence', async (_, files, message) => {
    const dir = await folder(files as Record<string, string>)
    await expect(loadTokenizer(dir)).rejects.toThrow(message)
    await expect(loadTokenizer(dir)).rejects.toHaveProperty('name', 'UserError')
  })

  it('do not reach object prototypes through their names', async () => {
    const text = JSON.stringify(VOCAB).replace('{', '{"__proto__":279,"constructor":280,')
    const tokenizer = await loaded({ ...FILES, 'vocab.json': text })
    expect(tokenizer.tokenOf(279)).toBe('__proto__')
    expect(tokenizer.encode('__proto__', { bos: false }).map(tokenizer.tokenOf).join('')).toBe(
      '__proto__',
    )
    expect(tokenizer.vocabSize).toBe(281)
    expect(SPECIALS.map((token) => VOCAB[token])).toEqual([0, 1, 2, 3])
  })
})
