// The eleven tasks against MeZO's own code: prompts, answers, demonstrations, calibration, cutting,
// sampling and scores. test/fixtures/tasks/expected.json was made by running that code on the rows
// beside it (scripts/make-task-expectations.py). Alone: npx vitest run test/unit/tasks.test.ts

import { readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parquetWriteFile } from 'hyparquet-writer'
import { describe, expect, it } from 'vitest'
import type { SourceRecord } from '../../src/data/whole-file.ts'
import { readRecords } from '../../src/data/readers.ts'
import { encodeSample, type EncodeOptions } from '../../src/data/tasks/encode.ts'
import { TASKS } from '../../src/data/tasks/index.ts'
import { filesIn, loadInContext, loadTaskData } from '../../src/data/tasks/load.ts'
import { exactMatch, f1Score } from '../../src/data/tasks/metrics.ts'
import { numpyPermutation } from '../../src/data/tasks/numpy-random.ts'
import type { Task } from '../../src/data/tasks/types.ts'
import { IGNORED, type Sequence, type Tokenizer } from '../../src/data/types.ts'
import { UserError } from '../../src/util/errors.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/tasks', import.meta.url))

interface Texts {
  texts: string[]
  answer_lengths: number[]
}
interface Case {
  right: (number | string)[]
  plain: Texts
  cut: Texts
  shown: Texts
  sfc?: Texts
  icl_sfc?: Texts
  prompt?: Texts
}
interface Expected {
  tasks: Record<
    string,
    { train_rows: number[]; dev_rows: number[]; eval_rows: number[]; metric: string; cases: Case[] }
  >
  scores: { answer: string; golds: string[]; f1: number; em: boolean }[]
  permutations: { seed: number; length: number; first: number[] }[]
}
const expected = JSON.parse(readFileSync(join(FIXTURES, 'expected.json'), 'utf8')) as Expected

/** One token per UTF-16 unit after BOS 0, as the expectations' tokenizer. */
const characters: Tokenizer = {
  encode: (text, { bos = true } = {}) => [
    ...(bos ? [0] : []),
    ...text.split('').map((c) => c.charCodeAt(0)),
  ],
  decode: (ids) => ids.map((id) => String.fromCharCode(id)).join(''),
  tokenOf: (id) => String.fromCharCode(id),
  bosId: 0,
  eosId: 2,
  eosIds: [2],
  padId: 1,
  vocabSize: 2 ** 16,
}

async function rowsOf(name: string, split: string): Promise<SourceRecord[]> {
  const rows: SourceRecord[] = []
  for await (const row of readRecords(join(FIXTURES, name, `${split}.jsonl`))) rows.push(row)
  return rows
}
const textOf = ({ inputIds }: Pick<Sequence, 'inputIds'>) => {
  expect(inputIds[0]).toBe(0)
  return characters.decode(inputIds.slice(1))
}
const answerOf = ({ inputIds, labels }: Sequence) => {
  const answer = labels.filter((label) => label !== IGNORED)
  expect(inputIds.slice(inputIds.length - answer.length)).toEqual(answer)
  return answer.length
}
const texts = (sequences: readonly Sequence[]): Texts => ({
  texts: sequences.map(textOf),
  answer_lengths: sequences.map(answerOf),
})
/** An answer longer than the sequence is all of it but BOS. */
const fitted = ({ texts, answer_lengths }: Texts): Texts => ({
  texts,
  answer_lengths: answer_lengths.map((n, i) => Math.min(n, texts[i]!.length)),
})

describe.each([...TASKS.values()])('$name', (task: Task) => {
  const { cases, train_rows } = expected.tasks[task.name]!
  const base: EncodeOptions = {
    maxLength: 2000,
    demonstrations: [],
    onlyAnswer: true,
    calibration: 'none',
  }
  const each = async (
    check: (
      encode: (o: Partial<EncodeOptions>) => ReturnType<typeof encodeSample>,
      c: Case,
    ) => void,
  ) => {
    const rows = await rowsOf(task.name, 'validation')
    expect(rows.length).toBe(cases.length)
    rows.forEach((row, i) => {
      const { place } = row
      check((o) => encodeSample(task.sample(row), place, characters, { ...base, ...o }), cases[i]!)
    })
  }
  const demonstrations = async () => {
    const train = await rowsOf(task.name, 'train')
    return train_rows.map((i) => task.sample(train[i]!))
  }
  const sequences = ({ example }: ReturnType<typeof encodeSample>) => example.options ?? [example]

  it('has the prompts, answers and right options of MeZO', () =>
    each((encode, c) => {
      const { example, truncated } = encode({})
      expect(truncated).toBe(false)
      expect(texts(sequences({ example, truncated }))).toEqual(c.plain)
      if (task.kind === 'generation') expect(example.generation!.golds).toEqual(c.right)
      else {
        expect(example.right).toEqual(c.right)
        expect(example.answer).toBe(c.right[0])
        expect(example.inputIds).toEqual(example.options![example.answer!]!.inputIds)
      }
      expect(task.kind === 'generation' ? 'f1' : 'accuracy').toBe(expected.tasks[task.name]!.metric)
    }))

  it('cuts on the left, after BOS', () =>
    each((encode, c) => {
      const encoded = encode({ maxLength: 40 })
      expect(texts(sequences(encoded))).toEqual(fitted(c.cut))
      expect(encoded.truncated).toBe(c.plain.texts.some((text) => text.length >= 40))
    }))

  it('stands after demonstrations', async () => {
    const shown = await demonstrations()
    await each((encode, c) => {
      expect(texts(sequences(encode({ demonstrations: shown })))).toEqual(c.shown)
      if (!c.prompt) return
      const { example } = encode({ demonstrations: shown, maxLength: 110 - 50 })
      expect(textOf({ inputIds: example.generation!.prompt })).toBe(c.prompt.texts[0])
    })
  })

  it('is calibrated without content', async () => {
    const shown = await demonstrations()
    await each((encode, c) => {
      const sfc = encode({ demonstrations: shown, calibration: 'sfc' }).example.calibration
      const icl = encode({ demonstrations: shown, calibration: 'icl-sfc' }).example.calibration
      expect(sfc && texts(sfc)).toEqual(c.sfc)
      expect(icl && texts(icl)).toEqual(c.icl_sfc)
    })
  })

  it('labels the prompt too if asked', () =>
    each((encode) => {
      const { example } = encode({ onlyAnswer: false })
      expect(example.labels).toEqual([IGNORED, ...example.inputIds.slice(1)])
      expect(example.options).toEqual(encode({}).example.options)
    }))
})

describe('an answer with nothing before it', () => {
  it('is refused: a tokenizer without BOS has no row that predicts its first token', async () => {
    const plain = (text: string) => characters.encode(text, { bos: false })
    const bare: Tokenizer = { ...characters, encode: plain }
    const task = TASKS.get('rte')!
    const [row] = await rowsOf('rte', 'validation')
    const encode = (calibration: EncodeOptions['calibration']) =>
      encodeSample(task.sample(row!), row!.place, bare, {
        maxLength: 2000,
        demonstrations: [],
        onlyAnswer: true,
        calibration,
      })
    expect(encode('none').example.options).toHaveLength(2)
    expect(() => encode('sfc')).toThrow(
      /validation.jsonl:1: nothing stands before the answer "Yes", .* leave out --sfc$/,
    )
  })
})

describe('sampling', () => {
  it.each(expected.permutations)("is NumPy's permutation: $length under $seed", (p) => {
    const order = numpyPermutation(p.length, p.seed)
    expect([...order.slice(0, p.first.length)]).toEqual(p.first)
    expect(new Set(order).size).toBe(p.length)
  })

  const sizes = { numTrain: 2, numDev: 1, numEval: 1000, trainSetSeed: 3 }
  const settings = {
    maxLength: 2000,
    maxNewTokens: 50,
    maxPositions: 2048,
    onlyAnswer: true,
    calibration: 'none' as const,
  }

  it.each([...TASKS.values()])('draws the rows that MeZO draws: $name', async (task) => {
    const want = expected.tasks[task.name]!
    const data = await loadTaskData(task, filesIn(FIXTURES, task), characters, {
      ...sizes,
      ...settings,
    })
    const [train, validation] = [
      await rowsOf(task.name, 'train'),
      await rowsOf(task.name, 'validation'),
    ]
    const solved = (rows: typeof train, indices: number[]) =>
      indices.map((i) => {
        const { solved } = task.sample(rows[i]!)
        return solved.replace(/^ +| +$/g, '').trimStart()
      })
    expect(data.train.map(textOf)).toEqual(solved(train, want.train_rows))
    expect(data.dev.map(textOf)).toEqual(solved(train, want.dev_rows))
    expect(data.eval.map(textOf)).toEqual(solved(validation, want.eval_rows))
  })

  const sst2 = TASKS.get('sst2')!
  const load = (dir: string, given: Partial<typeof sizes & typeof settings>) =>
    loadTaskData(sst2, filesIn(dir, sst2), characters, { ...sizes, ...settings, ...given })

  it('gives what is left to training, and says so', async () => {
    const data = await load(FIXTURES, { numTrain: 1000, numDev: 4 })
    expect([data.train.length, data.dev.length]).toEqual([6, 4])
    expect(data.log.join('\n')).toMatch(/10 rows, so that 6 are left to train on/)
    const none = await load(FIXTURES, { numDev: 0 })
    expect([none.train.length, none.dev.length]).toEqual([2, 0])
    await expect(load(FIXTURES, { numDev: 500 })).rejects.toThrow(
      /none of which is left.*--num-dev 500/,
    )
  })

  it('is the same from one file, several, and parquet', async () => {
    const dir = temporaryFolder()
    const rows = await rowsOf('sst2', 'train')
    const column = (name: string, from: number, to: number) =>
      rows.slice(from, to).map((r) => r.values[name])
    const columnData = (from: number, to: number) => [
      { name: 'sentence', data: column('sentence', from, to) as string[] },
      { name: 'label', data: (column('label', from, to) as number[]).map(BigInt) },
    ]
    await mkdir(join(dir, 'sst2/train'), { recursive: true })
    await mkdir(join(dir, 'sst2/validation'))
    parquetWriteFile({
      filename: join(dir, 'sst2/train/0000.parquet'),
      columnData: columnData(0, 6),
    })
    parquetWriteFile({
      filename: join(dir, 'sst2/train/0001.parquet'),
      columnData: columnData(6, 10),
    })
    const held = readFileSync(join(FIXTURES, 'sst2/validation.jsonl'))
    await writeFile(join(dir, 'sst2/validation.jsonl'), held)
    const [one, several] = [await load(FIXTURES, {}), await load(dir, {})]
    expect(several).toEqual(one)
  })

  it.each(['sst2', 'squad'])("reads what Python's save_to_disk leaves: %s", async (name) => {
    const task = TASKS.get(name)!
    const from = (dir: string) =>
      loadTaskData(task, filesIn(dir, task), characters, { ...sizes, ...settings })
    const saved = join(FIXTURES, '../saved-tasks', name)
    expect(await from(saved)).toEqual(await from(FIXTURES))
  })

  it('says when an Arrow file is damaged', async () => {
    const dir = temporaryFolder()
    const file = join(FIXTURES, '../saved-tasks/squad/train/data-00000-of-00001.arrow')
    const bytes = readFileSync(file)
    for (const [i, damaged] of [bytes.subarray(0, 700), Buffer.from('no arrow at all')].entries()) {
      const path = join(dir, `${i}.arrow`)
      await writeFile(path, damaged)
      const read = async () => {
        for await (const row of readRecords(path)) TASKS.get('squad')!.sample(row)
      }
      await expect(read()).rejects.toThrow(/\d\.arrow/)
      await expect(read()).rejects.toBeInstanceOf(UserError)
    }
  })

  it('shows demonstrations without training', async () => {
    const data = await loadInContext(sst2, filesIn(FIXTURES, sst2), characters, {
      ...sizes,
      ...settings,
    })
    const { cases, eval_rows } = expected.tasks['sst2']!
    expect(data.eval.map((e) => texts(e.options!))).toEqual(eval_rows.map((i) => cases[i]!.shown))
  })

  it('says what is missing', async () => {
    const dir = temporaryFolder()
    await expect(load(dir, {})).rejects.toThrow(/no train split of sst2: expected sst2\/train/)
    await writeFile(join(dir, 'train.jsonl'), '{"sentence":"x","label":-1}\n'.repeat(4))
    await writeFile(join(dir, 'validation.jsonl'), '{"sentence":"x"}\n')
    await expect(load(dir, {})).rejects.toThrow(
      /train.jsonl:\d: label must be a label from 0 to 1, but it is -1/,
    )
    await expect(load(FIXTURES, { maxPositions: 64 })).rejects.toThrow(/64 positions/)
  })
})

describe('scores', () => {
  it.each(expected.scores)('$answer against $golds', ({ answer, golds, f1, em }) => {
    expect(f1Score(answer, golds)).toBe(f1)
    expect(exactMatch(answer, golds)).toBe(em)
  })
})
