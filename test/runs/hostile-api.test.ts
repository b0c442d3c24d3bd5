// Odd and hostile arguments of programs: one UserError that names the argument, and a model that still works.
// Code of the caller's own keeps its error. Alone: npx vitest run test/runs/hostile-api.test.ts

import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  fromPretrained,
  loadTask,
  TrainingArguments,
  zoInit,
  ZOTrainer,
  type ZoModel,
} from '../../src/index.ts'
import { makeFolder, TINY } from '../helpers/cli.ts'

const home = makeFolder()
let model: ZoModel
const batch = { inputIds: [[2, 5, 6]], labels: [[-100, 5, 6]] }
let lossBefore: number

beforeAll(async () => {
  model = await fromPretrained(TINY, { device: 'cpu', threads: 1 })
  lossBefore = (await model.forward(batch)).loss
})
afterAll(async () => {
  // Nothing of all this has moved the weights, or kept the engine from working.
  expect((await model.forward(batch)).loss).toBe(lossBefore)
  await model.close()
  rmSync(home, { recursive: true, force: true })
})

/** The sentence that a call is refused with. */
async function sentence(call: () => unknown): Promise<string> {
  const error = await Promise.resolve()
    .then(call)
    .then(
      () => null,
      (thrown: unknown) => thrown as Error,
    )
  expect(error?.name, String(error?.message)).toBe('UserError')
  expect(error!.message).not.toMatch(/\n|Cannot read|is not (a function|iterable)|serialize/)
  return error!.message
}

const cyclic: { me?: unknown } = {}
cyclic.me = cyclic

describe('a batch', () => {
  it.each<[string, object]>([
    ['big integers', { inputIds: [[2n, 5n]], labels: [[-100, 5]] }],
    ['labels of big integers', { inputIds: [[2, 5]], labels: [[-100, 5n]] }],
    ['NaN labels', { inputIds: [[2, 5]], labels: [[NaN, 5]] }],
    ['holes', { inputIds: [[2, , 5]], labels: [[-100, 5, 5]] }],
    ['texts', { inputIds: [['2', '5']], labels: [[-100, 5]] }],
    ['rows that are no arrays', { inputIds: { 0: [2, 5], length: 1 }, labels: [[-100, 5]] }],
    ['a mask of NaN', { ...batch, attentionMask: [[1, NaN, 1]] }],
    ['a short mask', { ...batch, attentionMask: [[1]] }],
    ['a promise', Promise.resolve(batch)],
    ['a function', () => batch],
  ])('of %s is refused', async (_, given) => {
    expect(await sentence(() => model.forward(given as never))).toMatch(
      /inputIds|labels|attentionMask|batch/,
    )
  })

  it('behind a proxy is read, and a trap that throws keeps its error', async () => {
    expect((await model.forward(new Proxy(batch, {}))).loss).toBe(lossBefore)
    const trap = new Proxy(batch, {
      get: () => {
        throw new RangeError('trap')
      },
    })
    await expect(model.forward(trap)).rejects.toThrow(RangeError)
  })
})

describe('options', () => {
  it.each([null, 5, 'x'])('that are %s are refused by everybody', async (given) => {
    const none = given as never
    const calls: [string, () => unknown][] = [
      ['fromPretrained', () => fromPretrained(TINY, none)],
      ['zoInit', () => zoInit(model, none)],
      ['forward', () => model.forward(batch, none)],
      ['loadTask', () => loadTask(model, 'sst2', none)],
      ['TrainingArguments', () => new TrainingArguments(none)],
      ['ZOTrainer', () => new ZOTrainer(none)],
    ]
    for (const [name, call] of calls) {
      expect(await sentence(call)).toContain(`${name}: expected an object of options, found`)
    }
  })

  it.each<[string, object, RegExp]>([
    ['a big integer', { seed: 5n }, /^seed: expected a whole number/],
    ['NaN', { lr: NaN }, /^lr: expected a number of at least 0, found NaN/],
    ['a symbol', { method: Symbol('x') }, /^method: expected mezo-sgd/],
    ['a number in a list', { trainOnly: [5] }, /^trainOnly: expected texts/],
    ['no hook', { beforeStep: 5 }, /^beforeStep: expected a function, found 5/],
    ['no count', { maxNewTokens: -1 }, /^maxNewTokens: expected a whole number/],
    ['__proto__', JSON.parse('{"__proto__":{"lr":1}}') as object, /"__proto__"/],
  ])('with %s name the option', async (_, given, says) => {
    expect(await sentence(() => zoInit(model, given))).toMatch(says)
  })
})

describe('a training state', () => {
  it('refuses what is no batches, no folder and no dtype, and writes nothing', async () => {
    const zo = await zoInit(model, { lr: 0 })
    for (const none of [undefined, null, 5, 'ab', {}]) {
      expect(await sentence(() => zo.evaluate(none as never))).toMatch(/iterable of batches/)
    }
    expect(await sentence(() => zo.evaluate([]))).toMatch(/one batch or more/)
    for (const none of [undefined, null, '', 5, 'a\0b']) {
      expect(await sentence(() => zo.save(none as never))).toMatch(/path of a folder/)
    }
    for (const dtype of ['int8', '__proto__', 5]) {
      const dir = join(home, `as-${dtype}`)
      expect(await sentence(() => zo.save(dir, { dtype: dtype as never }))).toMatch(
        /^dtype: expected/,
      )
      expect(existsSync(dir)).toBe(false)
    }
  })

  it('hands on what a generator of batches throws', async () => {
    const zo = await zoInit(model, { lr: 0 })
    const broken = function* () {
      yield batch
      throw new RangeError('mine')
    }
    await expect(zo.evaluate(broken())).rejects.toThrow(RangeError)
  })
})

describe('a trainer', () => {
  const args = { outputDir: join(home, 'run'), maxSteps: 1, disableTqdm: true }

  it.each<[string, object, RegExp]>([
    ['a text as trainDataset', { trainDataset: 'abc' }, /^trainDataset: expected a list/],
    ['a number as dataCollator', { dataCollator: 5 }, /^dataCollator: expected a function/],
    ['a number as callbacks', { callbacks: 5 }, /^callbacks: expected a list/],
    ['null as a callback', { callbacks: [null] }, /^callbacks\[0\]: expected an object/],
    ['half of a path', { args: { outputDir: 'a\0b' } }, /^outputDir: expected a path/],
    ['a big integer of steps', { args: { ...args, maxSteps: 5n } }, /^maxSteps: expected/],
    ['a limit of nothing', { args: { ...args, saveTotalLimit: 1 } }, /--save-total-limit needs/],
  ])('with %s is none', async (_, given, says) => {
    expect(await sentence(() => new ZOTrainer({ model, args, ...given } as never))).toMatch(says)
  })

  it.each([
    ['go round', [cyclic]],
    ['hold big integers', [{ a: 1n }]],
  ])('refuses items that %s: a resumed run could not know them again', async (_, items) => {
    const trainer = new ZOTrainer<object>({
      model,
      args: { ...args, outputDir: join(home, 'items') },
      trainDataset: items,
      dataCollator: () => batch,
    })
    expect(await sentence(() => trainer.train())).toMatch(
      /^item 0 of the data cannot be written as JSON/,
    )
    expect(existsSync(join(home, 'items', 'journal.jsonl'))).toBe(false)
  })
})

describe('a tokenizer', () => {
  it('refuses what is no text, half of a character and what are no ids', async () => {
    const tokenizer = await model.tokenizer()
    for (const none of [undefined, null, 5]) {
      expect(await sentence(() => tokenizer.encode(none as never))).toMatch(/expected a text/)
    }
    expect(await sentence(() => tokenizer.encode('a\ud800b'))).toMatch(/half a surrogate pair/)
    expect(await sentence(() => tokenizer.decode('x' as never))).toMatch(/list of token ids/)
  })
})
