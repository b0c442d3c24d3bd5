// ZOTrainer's metrics, collators and predictions, and objectives that a program gives.
// Alone: npx vitest run test/runs/trainer-objectives.test.ts

import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { collateExamples, loadTask, zoInit, ZOTrainer, type BatchInput } from '../../src/index.ts'
import { ROOT } from '../helpers/cli.ts'
import { folder, lines, model, rejection, SMALL, train, trainer } from '../helpers/trainer.ts'

describe('metrics, collators, predictions', () => {
  it('computeMetrics sees the logits at labelled tokens', async () => {
    const losses: number[] = []
    const own = trainer(
      {},
      {
        preprocessLogitsForMetrics: (logits, labels) => {
          logits.forEach((row, i) => losses.push(crossEntropy(row, labels[i]!)))
          return logits.map((row) => row.indexOf(Math.max(...row)))
        },
        computeMetrics: ({ predictions, labelIds, inputs }) => {
          const right = labelIds.flatMap((labels, s) =>
            labels.map((label, i) => Number((predictions[s] as number[])[i] === label)),
          )
          return { right: right.reduce((a, b) => a + b) / right.length, inputs: inputs.length }
        },
      },
    )
    const scores = await own.evaluate(train)
    expect(Object.keys(scores).sort()).toEqual(
      ['eval_inputs', 'eval_loss', 'eval_perplexity', 'eval_right', 'eval_tokens'].sort(),
    )
    expect(scores['eval_inputs']).toBe(9)
    expect(losses.length).toBe(scores['eval_tokens'])
    expect(losses.reduce((a, b) => a + b) / losses.length).toBeCloseTo(scores['eval_loss']!, 4)
    const bad = (figures: object) =>
      trainer({}, { computeMetrics: () => figures as never }).evaluate()
    expect(await rejection(bad({ bleu: 'x' }))).toBe(
      'computeMetrics: bleu: expected a number, found x',
    )
    expect(await rejection(bad({ step: 1 }))).toMatch(/take another name/)
    const { labelIds } = await own.predict(train.slice(0, 1))
    expect(labelIds).toEqual([train[0]!.labels.filter((label) => label >= 0)])
  })

  it('dataCollator makes batches of anything', async () => {
    const words = ['a man', 'the sea', 'an old house', 'home']
    const tokenizer = await model.tokenizer()
    const dataCollator = (items: readonly string[]) => {
      const rows = items.map((text) => tokenizer.encode(text).concat(1, 1).slice(0, 4))
      return { inputIds: rows, labels: rows.map((row) => [-100, ...row.slice(1)]) }
    }
    const args = { ...SMALL, outputDir: folder(), evalSteps: 2, numTrainEpochs: 1, maxSteps: -1 }
    const own = new ZOTrainer({
      model,
      args,
      trainDataset: words,
      evalDataset: words,
      dataCollator,
    })
    expect(await own.train()).toMatchObject({ globalStep: 2 })
    expect(lines(own.args.outputDir, 'evals.jsonl')).toMatchObject([{ step: 2, tokens: 12 }])
    expect(await rejection(own.evaluate([]))).toMatch(/needs an evalDataset; found an empty one/)
  })
})

describe('objectives of a program', () => {
  const batch = () => collateExamples(train.slice(0, 4), { padId: 1, padTo: 'right' })
  const firstStep = async (options: Parameters<typeof zoInit>[1], own: BatchInput = batch()) =>
    (await (await zoInit(model, { lr: 1e-3, ...options })).step(own)).entry

  it('of losses and of logits agree with the built-in loss', async () => {
    const own = { ...batch(), labels: batch().labels.map((row) => firstLabel(row)) }
    const plain = await firstStep({}, own)
    const losses = await firstStep(
      { objective: { of: 'losses', score: (rows) => rows.map(([loss]) => loss!) } },
      own,
    )
    expect(losses).toEqual(plain)
    const logits = await firstStep(
      {
        objective: (rows, { labels }) =>
          rows.map(([row], b) =>
            crossEntropy(
              row!,
              labels[b]!.find((label) => label >= 0)!,
            ),
          ),
      },
      own,
    )
    expect(logits.loss_plus).toBeCloseTo(plain.loss_plus!, 5)
    expect(logits.projected_grad).toBeCloseTo(plain.projected_grad, 1)
  })

  it('of generated texts continue prompts, once for each probe', async () => {
    const texts: (readonly string[])[] = []
    const score = (generations: readonly string[]) => {
      texts.push(generations)
      return generations.map((text) => text.length)
    }
    const objective = { of: 'generations', score, maxNewTokens: 3 } as const
    const { loss_plus, loss_minus } = await firstStep({ objective })
    const lengths = texts.map((list) => list.reduce((sum, text) => sum + text.length, 0) / 4)
    expect([loss_plus, loss_minus]).toEqual(lengths)
    expect(Math.max(...lengths)).toBeGreaterThan(0)
    // A prompt alone needs no label.
    const inputIds = [[2, 9, 8]]
    await firstStep({ objective }, { inputIds, labels: [[-100, -100, -100]] })
    expect(texts.map((list) => list.length)).toEqual([4, 4, 1, 1])
  })

  it('by name compare options, which batches keep', async () => {
    const dataDir = join(ROOT, 'test/fixtures/tasks')
    const options = { dataDir, numTrain: 6, numDev: 2, numEval: 2, maxLength: 128 }
    const { train: copa, dev } = await loadTask(model, 'copa', options)
    const rows = collateExamples(copa.slice(0, 2), { padId: 1, padTo: 'right' }, { options: true })
    const { loss_plus } = await firstStep({ objective: 'accuracy' }, rows)
    expect([0, 0.5, 1]).toContain(loss_plus)
    const sentence = await rejection(firstStep({ objective: 'accuracy' }))
    expect(sentence).toBe(
      'the objective compares options, but the batch has none: collate examples with options',
    )
    expect(
      await rejection(firstStep({}, { ...rows, choices: [{ first: 0, count: 2, right: [2] }] })),
    ).toMatch(/choices\[0\]\.right/)
    const own = trainer(
      { maxSteps: 2, evalSteps: 2 },
      { trainDataset: copa, evalDataset: dev, trainAsClassification: true },
    )
    await own.train()
    expect(lines(own.dir, 'evals.jsonl')[0]).toHaveProperty('accuracy')
    expect(await rejection(trainer({}, { trainAsClassification: true }).train())).toMatch(
      /trainDataset\[0\] has none/,
    )
  })

  it('say what is wrong with them', async () => {
    const wrong = (objective: unknown) => rejection(firstStep({ objective } as never))
    expect(await wrong('bleu')).toMatch(/objective: expected loss, accuracy, f1, a function/)
    expect(await wrong({ of: 'words', score: () => [] })).toMatch(/objective.of: expected logits/)
    expect(await wrong({ of: 'losses' })).toMatch(/with a function as score/)
    expect(await wrong(() => [1])).toMatch(/must give 4 numbers.*found 1 of them/)
    expect(await wrong(() => 'x')).toMatch(/must give 4 numbers.*found x/)
    expect(
      await rejection(zoInit(model, { objective: 'f1', trainAsClassification: true })),
    ).toMatch(/leave it or the objective out/)
  })
})

/** The row with its first label alone. */
function firstLabel(row: readonly number[]): number[] {
  const first = row.findIndex((label) => label >= 0)
  return row.map((label, t) => (t === first ? label : -100))
}

/** -log softmax in f64. */
function crossEntropy(logits: Float32Array, label: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b))
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0)
  return most + Math.log(sum) - logits[label]!
}
