// Bad data and options for training examples: one sentence each, with the place in the file.
// Alone: npx vitest run test/unit/examples-refused.test.ts

import { describe, expect, it } from 'vitest'
import type { ExampleOptions } from '../../src/data/examples.ts'
import { jsonl, load, SST2 } from '../helpers/load-examples.ts'

describe('bad data and options', () => {
  const good = { text: 'a', label: 0 }
  it.each<[string, string, Partial<ExampleOptions>, RegExp]>([
    [
      'label 2 of 2',
      jsonl(good, { ...good, label: 2 }),
      SST2,
      /x.jsonl:2: the label must be an integer from 0 to 1, or one of the label words terrible, great, but it is 2$/,
    ],
    ['label -1', jsonl({ ...good, label: -1 }), SST2, /x.jsonl:1: the label must be .* -1$/],
    ['label 0.5', jsonl({ ...good, label: 0.5 }), SST2, /the label must be .* 0.5$/],
    ['label true', jsonl({ ...good, label: true }), SST2, /the label must be .* true$/],
    ['label null', jsonl({ ...good, label: null }), SST2, /the label must be .* null$/],
    ['label [0]', jsonl({ ...good, label: [0] }), SST2, /the label must be .* \[0\]$/],
    ['an unknown word', jsonl({ ...good, label: 'bad' }), SST2, /the label must be .* "bad"$/],
    ['no label', jsonl(good, { text: 'a' }), SST2, /x.jsonl:2: no column label, only text/],
    ['no label column', jsonl({ text: 'a' }), SST2, /no column label .*name the .* --label-column/],
    [
      'an unknown column',
      jsonl(good),
      { ...SST2, template: '{sentence} It' },
      /--template names the column \{sentence\}, but .* has text, label: use one/,
    ],
    ['a constant template', jsonl(good), { ...SST2, template: 'It was' }, /names no column/],
    [
      'a number as text',
      jsonl(good, { ...good, text: null }),
      SST2,
      /x.jsonl:2: expected a string in the column text, but it is null/,
    ],
    ['one label word', jsonl(good), { ...SST2, labelWords: ['a'] }, /two or more words, but has 1/],
    ['a label word twice', jsonl(good), { ...SST2, labelWords: ['a', 'a '] }, /has "a" twice/],
    [
      'an empty label word',
      jsonl(good),
      { ...SST2, labelWords: ['a', ' '] },
      /label word "" has no tok/,
    ],
    ['a template alone', jsonl(good), { template: '{text}' }, /--template needs --label-words/],
    [
      'label words alone',
      jsonl(good),
      { labelWords: ['a', 'b'] },
      /--label-words needs --template/,
    ],
    [
      'no room for a prompt',
      jsonl(good),
      { ...SST2, maxLength: 2 },
      /--max-length 2 leaves 1 tokens .* give at least 3$/,
    ],
    [
      'a sequence longer than positions',
      jsonl(good),
      { maxLength: 4096, maxPositions: 2048 },
      /--max-length 4096 makes sequences longer than the model's 2048 positions: give --max-length 2048 or less/,
    ],
    [
      'a length of 1',
      jsonl(good),
      { maxLength: 1 },
      /--max-length must be an integer of at least 2/,
    ],
    [
      'other columns',
      jsonl({ message: [] }),
      {},
      /has the columns message, but expected text, prompt and completion, messages, .* --text-column/,
    ],
    [
      'other columns later',
      jsonl(good, { txt: 'a' }),
      {},
      /x.jsonl:2: expected a string in the column text, but the columns are txt/,
    ],
    [
      'semicolons',
      'text;label\na;1\n',
      {},
      /has the columns "text;label" \(separated by ";"\? fields of a .csv file are separated by "," .*\), but expected text/,
    ],
    [
      'semicolons and a template',
      'text;label\na;1\n',
      SST2,
      /\{text\}, but .*x.csv has "text;label" \(separated by ";"\?/,
    ],
    [
      '20,000 columns',
      JSON.stringify(Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`c${i}`, i]))),
      {},
      /^.{0,120}has the columns c0, c1, .* c7 and 19992 more, but expected text.{0,150}$/,
    ],
    [
      'a column with a line end',
      JSON.stringify({ 'a\nb\u001b': 1 }),
      {},
      /^[^\n\u001b]*has the columns "a\\nb\\u001b", but expected text[^\n\u001b]*$/,
    ],
    [
      'half a character',
      '{"text":"a\\ud83d"}',
      {},
      /x.jsonl:1: the column text has half a surrogate pair/,
    ],
    [
      'deep nesting',
      `{"text":"a","x":${'['.repeat(20_000)}`,
      {},
      /x.jsonl:1: not usable as JSON: nested more than 100 deep/,
    ],
    ['label 1.5', 'text,label\na,1.5\n', SST2, /x.csv:2: the label must be .* "1.5"$/],
    ['label 1e0', 'text,label\na,1e0\n', SST2, /x.csv:2: the label must be .* "1e0"$/],
    [
      'a missing completion',
      jsonl({ prompt: 'a', completion: 'b' }, { prompt: 'a' }),
      {},
      /x.jsonl:2: .* column completion, but the columns are prompt/,
    ],
    [
      'an empty completion',
      jsonl({ prompt: 'a', completion: '' }),
      {},
      /x.jsonl:1: the completion has no token/,
    ],
    [
      'only empty texts',
      jsonl({ text: '' }),
      {},
      /holds no text to train on: all of its 1 records/,
    ],
    ['no records', '', {}, /holds no records/],
  ])('with %s get one sentence', async (_, data, options, message) => {
    const result = load(data, options, { name: data.startsWith('text') ? 'x.csv' : 'x.jsonl' })
    await expect(result).rejects.toThrow(message)
    await expect(result).rejects.toHaveProperty('name', 'UserError')
  })
})
