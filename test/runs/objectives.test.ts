// What tasks measure: options by their mean log-probability, generated answers, every probe as the centre
// at eps 0; calibration; --mezo-compat. The commands: task-runs.test.ts.
// Alone: npx vitest run test/runs/objectives.test.ts

import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { collateExamples } from '../../src/data/batches.ts'
import { packExamples } from '../../src/data/packing.ts'
import type { Example } from '../../src/data/types.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { evaluateExamples } from '../../src/train/evaluate.ts'
import { optionCrossEntropy, optionError, tokenMean } from '../../src/train/loss.ts'
import { dataTokenizer } from '../../src/data/model-tokenizer.ts'
import { f1Score } from '../../src/data/tasks/metrics.ts'
import { answersTo } from '../../src/generate/answers.ts'
import { MEAN_LOSS, objectiveOf } from '../../src/train/objective.ts'
import { parseConfig } from '../../src/config/options.ts'
import { silent } from '../../src/util/console.ts'
import { loadModel } from '../../src/engine/load.ts'
import { contextData, taskData } from '../../src/train/task.ts'
import { ROOT, TINY } from '../helpers/cli.ts'
import { openRun, totalsOf } from '../helpers/runs.ts'

const FIXTURES = join(ROOT, 'test/fixtures/tasks')
const NEVER = new AbortController().signal
const padding = { padId: 1, padTo: 'left' } as const

const closers: (() => Promise<void>)[] = []
let engine: Engine
beforeAll(async () => {
  const device = await openCpu({ threads: 1 })
  engine = await openRun({ device }, TINY)
  closers.push(
    () => engine.close(),
    () => device.close(),
  )
})
afterAll(async () => {
  for (const close of closers) await close()
})

async function examplesOf(options: Record<string, unknown>) {
  const config = parseConfig({ dataDir: FIXTURES, maxLength: 200, ...options })
  const loaded = await loadModel(TINY, config, silent)
  const tokenizer = await dataTokenizer(loaded, config)
  return { config, loaded, tokenizer }
}
async function trainOf(options: Record<string, unknown>) {
  const { config, loaded, tokenizer } = await examplesOf(options)
  const data = await taskData(loaded, config, tokenizer, silent, NEVER)
  return { ...data, tokenizer }
}

describe('objectives', () => {
  const example = (options: number[][], answer: number, right?: number[]): Example => {
    const sequences = options.map((ids) => ({
      inputIds: [2, 7, ...ids],
      labels: [-100, -100, ...ids],
    }))
    return { ...sequences[answer]!, options: sequences, answer, ...(right && { right }) }
  }
  // Two examples: 2 options of 1 and 2 tokens, and 3 options of 1 token each.
  const examples = [example([[5], [6, 8]], 1), example([[5], [6], [9]], 2, [2, 1])]
  const batch = packExamples(examples, { options: true })
  const losses = Float64Array.from([1, 0.5, 2.5, 3, 1, 2])

  it('give each example its options as texts', () => {
    expect(batch.texts).toHaveLength(5)
    expect(batch.choices).toEqual([
      { first: 0, count: 2, right: [1] },
      { first: 2, count: 3, right: [2, 1] },
    ])
    expect(packExamples(examples).texts).toHaveLength(2)
    const rows = collateExamples(examples, padding, { options: true })
    expect(rows).toMatchObject({ choices: batch.choices })
    expect(rows.inputIds).toHaveLength(5)
  })

  it('compare options by their mean log-probability', () => {
    // Means: -1 and -1.5; -3, -1, -2.
    const first = -Math.log(Math.exp(-1.5) / (Math.exp(-1) + Math.exp(-1.5)))
    const second = -Math.log(Math.exp(-2) / (Math.exp(-3) + Math.exp(-1) + Math.exp(-2)))
    const { sum, count } = optionCrossEntropy(losses, batch)
    expect(sum).toBeCloseTo(first + second, 12)
    expect(count).toBe(2)
    // The first is wrong; in the second, option 1 is best and is among the right ones.
    expect(optionError(losses, batch)).toEqual({ sum: 1, count: 2 })
    expect(tokenMean(losses, batch)).toEqual({ sum: 10, count: 6 })
  })

  it('count what is not finite as wrong, and pass it on as a loss', () => {
    const broken = losses.map((loss, i) => (i === 3 ? NaN : loss))
    expect(optionError(broken, batch)).toEqual({ sum: 2, count: 2 })
    expect(optionCrossEntropy(broken, batch).sum).toBeNaN()
  })

  it('measure every probe as evaluation of the centre does at eps 0', async () => {
    const { train } = await trainOf({ task: 'cb', numTrain: 2, numDev: 1 })
    const probes = { step: 0, list: engine.options.estimator.probes(0) }
    const objective = { kind: 'losses', score: optionCrossEntropy } as const
    const options = collateExamples(train, padding, { options: true })
    const totals = await totalsOf(engine, options, probes, objective)
    const { option_loss, loss } = await evaluateExamples(engine, train, {})
    expect(totals.length).toBe(2)
    for (const { sum, count } of totals) expect(sum / count).toBeCloseTo(option_loss!, 5)
    const [mean] = await totalsOf(engine, collateExamples(train, padding), probes, MEAN_LOSS)
    expect(mean!.sum / mean!.count).toBeCloseTo(loss, 5)
  })

  it('score generated answers under every probe', async () => {
    const { train, tokenizer } = await trainOf({ task: 'squad', numTrain: 3, numDev: 1 })
    const prompts = train.map((e) => e.generation!.prompt)
    const answers = await answersTo(engine, prompts, tokenizer, { maxNewTokens: 4 })
    // Golds taken from what the model says: two right, one half right.
    const golds = answers.map((answer, i) => [i < 2 ? answer : 'zebra'])
    const asked = train.map((e, i) => ({
      ...e,
      generation: { ...e.generation!, golds: golds[i]! },
    }))
    const expected = answers.reduce((sum, answer, i) => sum + 1 - f1Score(answer, golds[i]!), 0)
    const probes = { step: 0, list: engine.options.estimator.probes(0) }
    const f1 = { objective: 'f1', trainAsClassification: false, maxNewTokens: 4 } as const
    const objective = objectiveOf(f1, tokenizer)
    const before = engine.counters.downloadBytes
    const totals = await totalsOf(engine, collateExamples(asked, padding), probes, objective)
    // Logits of three texts and two probes for each of up to four new tokens.
    const rows = (engine.counters.downloadBytes - before) / (4 * engine.model.vocabSize)
    expect(rows % 3).toBe(0)
    expect(rows).toBeGreaterThan(0)
    expect(rows).toBeLessThanOrEqual(4 * 2 * 3)
    expect(totals).toEqual([0, 1].map(() => ({ sum: expected, count: 3 })))
    const scores = await evaluateExamples(engine, asked, {
      answers: { tokenizer: () => Promise.resolve(tokenizer), maxNewTokens: 4 },
    })
    expect(scores.f1).toBeCloseTo(1 - expected / 3, 12)
    expect(scores.exact_match).toBeGreaterThanOrEqual(0)
  })
})

describe('calibration', () => {
  it('subtracts the summed log-probability after a prompt without content', async () => {
    const { config, loaded, tokenizer } = await examplesOf({ task: 'copa', sfc: true })
    const examples = await contextData(loaded, config, tokenizer, silent, NEVER)
    const total = async (sequence: Example) =>
      await evaluateExamples(engine, [{ inputIds: sequence.inputIds, labels: sequence.labels }], {})
    let right = 0
    for (const { options = [], calibration = [], answer } of examples) {
      expect(calibration.length).toBe(options.length)
      const scores = []
      for (const [o, option] of options.entries()) {
        const [own, free] = [await total(option), await total(calibration[o]!)]
        scores.push(free.loss * free.tokens - own.loss * own.tokens)
      }
      right += Number(scores.indexOf(Math.max(...scores)) === answer)
    }
    const { accuracy } = await evaluateExamples(engine, examples, {})
    expect(accuracy).toBe(right / examples.length)
  })
})

describe('--mezo-compat', () => {
  it('begins sequences of OPT with token 0; without it the rule is the tokenizer’s', async () => {
    const { train } = await trainOf({ task: 'rte', numTrain: 2, numDev: 1, mezoCompat: true })
    const usual = await trainOf({ task: 'rte', numTrain: 2, numDev: 1 })
    expect(train.map((e) => e.inputIds[0])).toEqual([0, 0])
    expect(usual.train.map((e) => e.inputIds[0])).toEqual([2, 2])
    expect(train.map((e) => e.inputIds.slice(1))).toEqual(
      usual.train.map((e) => e.inputIds.slice(1)),
    )
    expect(train[0]!.options![0]!.inputIds[0]).toBe(0)
  })
})
