// Training examples from files: texts cut into windows, prompts with completions, texts with labels, each to
// the token; characters that a vocabulary lacks; many examples. What is refused: examples-refused.test.ts.
// Alone: npx vitest run test/unit/examples.test.ts

import { describe, expect, it } from 'vitest'
import { checkBatch, collateExamples } from '../../src/data/batches.ts'
import { characterTokenizer } from '../../src/data/gpt-tokenizers.ts'
import { indicesForStep } from '../../src/data/order.ts'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { IGNORED } from '../../src/data/types.ts'
import { textLosses } from '../../src/train/loss.ts'
import { packBatch } from '../../src/data/packing.ts'
import { table } from '../../src/util/console.ts'
import { jsonl, load, SST2, tokenizer } from '../helpers/load-examples.ts'
import { folder, TOKENIZER_JSON } from '../helpers/small-tokenizer.ts'

const noBos = await loadTokenizer(
  await folder({ 'tokenizer.json': JSON.stringify({ ...TOKENIZER_JSON, post_processor: null }) }),
)
const ids = (text: string) => tokenizer.encode(text, { bos: false })
const ignored = (n: number) => new Array<number>(n).fill(IGNORED)

const BOS = 2

describe('texts', () => {
  it('become windows, each with BOS, whose tokens are the text and all labelled', async () => {
    const text = 'the great terrible cat'.repeat(9)
    const { kind, examples, truncated, log } = await load(jsonl({ text }, { text: 'a' }), {
      maxLength: 10,
    })
    expect({ kind, truncated }).toEqual({ kind: 'lm', truncated: 0 })
    const [last, ...windows] = [examples.at(-1)!, ...examples.slice(0, -1)]
    expect(last).toEqual({ inputIds: [BOS, ...ids('a')], labels: [IGNORED, ...ids('a')] })
    expect(windows.flatMap(({ inputIds }) => inputIds.slice(1))).toEqual(ids(text))
    expect(windows.every(({ inputIds }) => inputIds[0] === BOS && inputIds.length <= 10)).toBe(true)
    expect(log).toEqual([
      'x.jsonl: texts longer than 10 tokens were cut into consecutive windows ' +
        `(texts cut: 1, sequences in all: ${examples.length})`,
    ])
  })

  it('come from .txt, from other columns, and leave empty ones out', async () => {
    const txt = await load('a b c d e f h', { maxLength: 5 }, { name: 'x.txt' })
    expect(txt.examples.map(({ inputIds }) => inputIds.length)).toEqual([5, 5, 5, 2])
    const csv = await load('sentence\na\n""\nb\n', { textColumn: 'sentence' }, { name: 'x.csv' })
    expect(csv.examples.map(({ inputIds }) => inputIds)).toEqual([
      [BOS, ...ids('a')],
      [BOS, ...ids('b')],
    ])
    expect((await load(jsonl({ text: '' }, { text: 'b' }))).log).toEqual([
      'x.jsonl: empty texts were left out (1)',
    ])
  })

  it('say that their labels are not used', async () => {
    const { kind, log } = await load(jsonl({ text: 'a', label: 0 }))
    expect(kind).toBe('lm')
    expect(log).toEqual([expect.stringMatching(/labels, which is not used: give --template and/)])
  })

  it('have no BOS where the tokenizer adds none', async () => {
    const { examples } = await load(jsonl({ text: 'abcde' }), { maxLength: 2 }, { by: noBos })
    expect(examples).toEqual([
      { inputIds: ids('ab'), labels: [IGNORED, ...ids('b')] },
      { inputIds: ids('cd'), labels: [IGNORED, ...ids('d')] },
    ])
  })
})

describe('prompts with completions', () => {
  it('are labelled on the completion alone', async () => {
    const { kind, examples } = await load(jsonl({ prompt: 'It was', completion: ' great' }))
    const prompt = [BOS, ...ids('It was')]
    expect(kind).toBe('completion')
    expect(examples).toEqual([
      { inputIds: [...prompt, ...ids(' great')], labels: [...ignored(7), ...ids(' great')] },
    ])
  })

  it('lose the left end of the prompt but not BOS, then the end of the completion', async () => {
    const rows = [
      { prompt: 'abcdefgh', completion: 'xy' },
      { prompt: 'ab', completion: 'xy' },
      { prompt: 'ab', completion: 'uvwxyz' },
      { prompt: '', completion: 'x' },
    ]
    const { examples, truncated, log } = await load(jsonl(...rows), { maxLength: 6 })
    expect(examples.map(({ inputIds, labels }) => [tokenizer.decode(inputIds), labels])).toEqual([
      ['</s>fghxy', [...ignored(4), ...ids('xy')]],
      ['</s>abxy', [...ignored(3), ...ids('xy')]],
      ['</s>uvwxy', [...ignored(1), ...ids('uvwxy')]],
      ['</s>x', [...ignored(1), ...ids('x')]],
    ])
    expect(truncated).toBe(2)
    expect(log).toEqual(['2 of 4 records in x.jsonl are longer than --max-length 6 and were cut'])
  })

  it('keep a token of the prompt where there is no BOS', async () => {
    const row = jsonl({ prompt: 'ab', completion: 'uvwxyz' })
    const { examples } = await load(row, { maxLength: 4 }, { by: noBos })
    expect(examples).toEqual([{ inputIds: ids('buvw'), labels: [IGNORED, ...ids('uvw')] }])
  })
})

describe('texts with labels', () => {
  it('fill the template and carry one sequence per label word', async () => {
    const { kind, examples, log } = await load(
      jsonl(
        { text: 'a cat', label: 1 },
        { text: 'b', label: 'terrible' },
        { text: 'c', label: '1' },
      ),
      SST2,
    )
    const prompt = [BOS, ...ids('a cat It was')]
    const option = (word: string) => ({
      inputIds: [...prompt, ...ids(word)],
      labels: [...ignored(prompt.length), ...ids(word)],
    })
    expect(kind).toBe('classification')
    expect(examples[0]).toEqual({
      ...option(' great'),
      options: [option(' terrible'), option(' great')],
      answer: 1,
    })
    expect(examples.map(({ answer }) => answer)).toEqual([1, 0, 1])
    expect(log).toEqual([])
  })

  it('equal the ids of the whole text, as MeZO encodes it', async () => {
    const { examples } = await load(jsonl({ text: "It's great", label: 1 }), SST2)
    expect(examples[0]!.inputIds).toEqual(tokenizer.encode("It's great It was great"))
  })

  it('may have any columns, numbers in the template and a space at its end', async () => {
    const options = {
      template: '{text}{stars} of {n}: ',
      labelWords: [' no ', 'yes'],
      maxLength: 64,
      textColumn: 'review',
      labelColumn: 'good',
    }
    const row = { review: 'a', stars: 4, n: '5', good: 'yes' }
    const { examples } = await load(jsonl(row, { ...row, good: 0 }), options)
    expect(tokenizer.decode(examples[0]!.inputIds)).toBe('</s>a4 of 5: yes')
    expect(tokenizer.decode(examples[1]!.inputIds)).toBe('</s>a4 of 5: no')
  })

  it('lose the left end of the prompt, the same for all options', async () => {
    const options = { ...SST2, labelWords: ['great', 'xyz'], maxLength: 8 }
    const { examples, truncated, log } = await load(
      jsonl({ text: 'abcdefg', label: 0 }, { text: '', label: 1 }),
      { ...options, template: '{text}?' },
    )
    expect(examples[0]!.options!.map(({ inputIds }) => tokenizer.decode(inputIds))).toEqual([
      '</s>fg? great',
      '</s>fg? xyz',
    ])
    expect(truncated).toBe(1)
    expect(log).toContain('1 of 2 records in x.jsonl are longer than --max-length 8 and were cut')
  })

  it('say which label words are several tokens', async () => {
    const options = { ...SST2, labelWords: ['bad', 'great'] }
    const { log } = await load(jsonl({ text: 'a', label: 0 }, { text: 'a', label: 1 }), options)
    expect(log).toEqual([
      'the label word "bad" is 4 tokens (" " "b" "a" "d"): ' +
        'its score is the mean of their log-probabilities',
    ])
  })

  it('warn where all have one label', async () => {
    const { log } = await load(jsonl({ text: 'a', label: 1 }, { text: 'b', label: 1 }), SST2)
    expect(log).toEqual([
      'warning: all 2 examples in x.jsonl have the label great: there is nothing to tell apart',
    ])
  })

  it('may be written as pandas writes integers, 0.0 and 1.0', async () => {
    const csv = 'text,label\na,0.0\nb, 1.00\nc,1\n'
    const { examples } = await load(csv, SST2, { name: 'x.csv' })
    expect(examples.map(({ answer }) => answer)).toEqual([0, 1, 1])
    const stars = { ...SST2, labelWords: ['1', '2.0', '3'] }
    const more = await load('text,label\na,2.0\nb,3.0\n', stars, { name: 'x.csv' })
    expect(more.examples.map(({ answer }) => answer)).toEqual([1, 2])
  })

  it('are not kept from being read by further columns of any name or type', async () => {
    const csv = ',text,label,constructor,\n0,a,1,x,\n1,b,0,y,\n'
    const options = { ...SST2, template: '{text}{constructor}' }
    const { examples } = await load(csv, options, { name: 'x.csv' })
    expect(tokenizer.decode(examples[0]!.inputIds)).toBe('</s>ax great')
    const row = '{"text":"a","label":1,"__proto__":{"label":0},"n":1e400}'
    expect((await load(row, SST2)).examples[0]!.answer).toBe(1)
    const { kind, log } = await load('{"text":"a"}', { labelColumn: 'constructor' })
    expect({ kind, log }).toEqual({ kind: 'lm', log: [] })
  })

  it('take numbers as words where the label words are numbers', async () => {
    const options = { ...SST2, labelWords: ['1', '2', '3'] }
    const { examples } = await load(
      jsonl({ text: 'a', label: 3 }, { text: 'a', label: '1' }),
      options,
    )
    expect(examples.map(({ answer }) => answer)).toEqual([2, 0])
    const zero = load(jsonl({ text: 'a', label: 0 }), options)
    await expect(zero).rejects.toThrow(
      /x.jsonl:1: the label must be one of the label words 1, 2, 3/,
    )
  })
})

describe('characters that the vocabulary lacks', () => {
  it('are refused with the place of their record, not left out', async () => {
    const by = characterTokenizer([...'\n abcdefghijklmnopqrstuvwxyz'])
    const { examples } = await load(jsonl({ text: 'to be' }), {}, { by })
    expect(by.decode(examples[0]!.inputIds)).toBe('to be')
    const rows = jsonl({ text: 'to be' }, { text: 'to bé, or not' })
    await expect(load(rows, {}, { by })).rejects.toThrow(
      /x.jsonl:2: the model has no token for "é", ",": leave such characters out of the text$/,
    )
    await expect(load('to\r\nbe!', {}, { name: 'x.txt', by })).rejects.toThrow(/x.txt: .* for "!"/)
    await expect(load(jsonl({ text: 'a', label: 0 }), SST2, { by })).rejects.toThrow(
      /x.jsonl:1: the model has no token for "I": leave/,
    )
  })
})

describe('130,000 examples, more than a call may have arguments,', () => {
  it('are read, ordered, padded to one batch and scored', async () => {
    const count = 130_000
    const lines = Array.from({ length: count }, (_, i) => `{"text":"${'ab'.repeat(1 + (i % 3))}"}`)
    const { examples } = await load(lines.join('\n'), { maxLength: 8 })
    expect(examples).toHaveLength(count)
    const order = indicesForStep(0, count, count, 1)
    expect(new Set(order).size).toBe(count)
    const batch = collateExamples(
      order.map((i) => examples[i]!),
      { padId: 1, padTo: 'left' },
    )
    expect([batch.inputIds.length, batch.inputIds[0]!.length]).toEqual([count, 7])
    const packed = packBatch(checkBatch(batch, { vocabSize: 300, maxPositions: 8 }))
    const labels = examples.reduce((sum, { inputIds }) => sum + inputIds.length - 1, 0)
    expect(packed.rows).toHaveLength(labels)
    const losses = textLosses(new Float64Array(labels).fill(0.5), packed)
    expect(losses.reduce((sum, { count }) => sum + count, 0)).toBe(labels)
    expect(table(losses.map(({ sum }) => [String(sum)]))).toHaveLength(count)
  })
})
