// Tasks end to end: `finetune --task` and `eval --task` on the tiny OPT for a classification, a
// multiple-choice and a generation task, the objectives against plain arithmetic, and splits from a
// hub. Alone: npx vitest run test/runs/task-runs.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { collateExamples } from '../../src/data/batches.ts'
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
import { resolveSplit } from '../../src/hub/dataset.ts'
import { here, hereJson, ROOT, SENTIMENT, TINY } from '../helpers/cli.ts'
import { startMockHub } from '../helpers/mock-hub.ts'
import { openRun, tempFolder, totalsOf } from '../helpers/runs.ts'

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
  const batch = collateExamples(examples, padding, { options: true })
  const losses = Float64Array.from([1, 0.5, 2.5, 3, 1, 2])

  it('give each example its options as rows', () => {
    expect(batch.inputIds.length).toBe(5)
    expect(batch.choices).toEqual([
      { first: 0, count: 2, right: [1] },
      { first: 2, count: 3, right: [2, 1] },
    ])
    expect(collateExamples(examples, padding).inputIds.length).toBe(2)
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
    const { option_loss, loss } = await evaluateExamples(engine, train, {
      batchSize: 4,
      ...padding,
    })
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
      batchSize: 2,
      ...padding,
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
      await evaluateExamples(engine, [{ inputIds: sequence.inputIds, labels: sequence.labels }], {
        batchSize: 1,
        ...padding,
      })
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
    const { accuracy } = await evaluateExamples(engine, examples, { batchSize: 3, ...padding })
    expect(accuracy).toBe(right / examples.length)
  })
})

describe('--mezo-compat', () => {
  it('begins sequences of OPT with token 0 and pads left; without it the rule is the tokenizer’s', async () => {
    const { train } = await trainOf({ task: 'rte', numTrain: 2, numDev: 1, mezoCompat: true })
    const usual = await trainOf({ task: 'rte', numTrain: 2, numDev: 1 })
    expect(train.map((e) => e.inputIds[0])).toEqual([0, 0])
    expect(usual.train.map((e) => e.inputIds[0])).toEqual([2, 2])
    expect(train.map((e) => e.inputIds.slice(1))).toEqual(
      usual.train.map((e) => e.inputIds.slice(1)),
    )
    expect(train[0]!.options![0]!.inputIds[0]).toBe(0)
    expect(parseConfig({ mezoCompat: true }).padding).toBe('left')
    expect(parseConfig({ mezoCompat: true, padding: 'right' }).padding).toBe('right')
    expect(parseConfig({}).padding).toBe('right')
  })
})

describe('commands', () => {
  const small = ['--device', 'cpu', '--threads', '1', '--data-dir', FIXTURES, '--max-length', '200']
  const sizes = [
    '--num-train',
    '2',
    '--num-dev',
    '1',
    '--batch-size',
    '2',
    '--steps',
    '2',
    '--lr',
    '1e-4',
  ]
  const lines = (dir: string, name: string) =>
    readFileSync(join(dir, name), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, number>)

  it.each([
    ['SST2', ['--train-as-classification', '--mezo-compat'], ['accuracy', 'option_loss'], 4],
    ['Copa', ['--only-train-option', 'no'], ['accuracy', 'option_loss'], 3],
    ['SQuAD', ['--max_new_tokens', '3'], ['f1', 'exact_match'], 2],
  ] as const)('finetune and eval --task %s', async (task, flags, metrics, held) => {
    const dir = join(tempFolder(), 'run')
    const args = ['finetune', TINY, '--task_name', task, ...small, ...sizes, ...flags]
    const run = await hereJson([...args, '--output-dir', dir])
    expect(run).toMatchObject({ steps: 2, stopped: false })
    const evaluation = run['evaluation'] as Record<string, number>
    for (const metric of metrics) expect(evaluation[metric]).toBeGreaterThanOrEqual(0)
    const losses = lines(dir, 'journal.jsonl').map((entry) => entry['loss_plus']!)
    expect(losses.every(Number.isFinite)).toBe(true)
    expect(lines(dir, 'evals.jsonl').map((e) => [e['step'], e['split']])).toEqual([
      [0, undefined],
      [2, undefined],
      [2, 'eval'],
    ])
    // The exported model scores the same from the command line.
    const own = flags.filter((flag) => /mezo|tokens|^3$/.test(flag))
    const score = await hereJson([
      'eval',
      join(dir, 'model'),
      '--task',
      task,
      ...small,
      '--batch-size',
      '2',
      ...own,
    ])
    expect(score['examples']).toBe(held)
    for (const metric of metrics) expect(score[metric]).toBeCloseTo(evaluation[metric]!, 5)
    expect(score['loss']).toBeCloseTo(evaluation['loss']!, 5)
    // It goes on with --resume, and only as it began.
    const again = [
      ...args,
      '--output-dir',
      dir,
      '--resume',
      '--steps',
      '3',
      '--num-eval',
      '0',
      '--save-model',
      'no',
    ]
    const other = await here([...again, '--train-set-seed', '5'])
    expect(other.code).toBe(1)
    expect(other.stderr).toMatch(/other training data|--train-set-seed/)
    expect(await hereJson(again)).toMatchObject({ steps: 3, evaluation: null })
  })

  it('trains on accuracy and F1', async () => {
    for (const [task, objective] of [
      ['sst2', 'accuracy'],
      ['drop', 'f1'],
    ] as const) {
      const dir = join(tempFolder(), 'run')
      const flags = ['--objective', objective, '--max-new-tokens', '2', '--save-model', 'no']
      await hereJson([
        'finetune',
        TINY,
        '--task',
        task,
        ...small,
        ...sizes,
        ...flags,
        '--output-dir',
        dir,
      ])
      for (const { loss_plus } of lines(dir, 'journal.jsonl')) {
        expect(loss_plus).toBeGreaterThanOrEqual(0)
        expect(loss_plus).toBeLessThanOrEqual(1)
      }
    }
  })

  it('compares the label words of a file too', async () => {
    const dir = join(tempFolder(), 'run')
    const data = [
      '--train',
      join(SENTIMENT, 'train.jsonl'),
      '--template',
      '{text} It was',
      '--label-words',
      'terrible,great',
    ]
    const flags = [
      '--train-as-classification',
      '--steps',
      '1',
      '--batch-size',
      '4',
      '--save-model',
      'no',
    ]
    await hereJson(['finetune', TINY, '--device', 'cpu', ...data, ...flags, '--output-dir', dir])
    const [entry] = lines(dir, 'journal.jsonl')
    // Two options: near log 2 where the token loss is above 4.
    expect(entry!['loss_plus']).toBeLessThan(3)
  })

  it('shows demonstrations and calibrates in eval', async () => {
    const plain = await hereJson(['eval', TINY, '--task', 'rte', ...small])
    const shown = await hereJson([
      'eval',
      TINY,
      '--task',
      'rte',
      ...small,
      '--num-train',
      '2',
      '--icl-sfc',
    ])
    expect(shown['loss']).not.toBe(plain['loss'])
    expect(shown['examples']).toBe(2)
  })

  it.each([
    [
      ['--task', 'sst2', '--train', 'x.jsonl'],
      /--task and --train exclude each other \(it brings its own data and prompts\)/,
    ],
    [['--train', 'x.jsonl', '--num-dev', '5'], /--num-dev needs --task/],
    [['--task', 'sst3'], /--task: expected sst2, .* or drop, found "sst3"/],
    [
      ['--task', 'squad', '--train-as-classification'],
      /--train-as-classification needs examples with options; --task squad/,
    ],
    [['--task', 'copa', '--objective', 'f1'], /--objective f1 needs examples with answers/],
    [['--task', 'squad', '--sfc'], /no scores to calibrate/],
    [
      ['--task', 'cb', '--only-train-option', 'no', '--train-as-classification'],
      /--train-as-classification and --only-train-option exclude each other/,
    ],
    [['--task', 'cb', '--num-dev', '500'], /none of which is left/],
    [[], /--train \(or --task\) is required/],
  ])('%j is refused', async (flags, message) => {
    const data = flags.includes('--task') ? ['--data-dir', FIXTURES, '--num-dev', '1'] : []
    const args = ['finetune', TINY, '--device', 'cpu', ...data, '--max-length', '200', ...flags]
    const { code, stderr } = await here([...args, '--output-dir', join(tempFolder(), 'run')])
    expect(stderr).toMatch(message)
    expect(code).toBeGreaterThan(0)
  })
})

describe('splits from a hub', () => {
  const COMMIT = 'e'.repeat(40)
  const shard = (from: number) => ({
    lfs: true,
    bytes: Buffer.from(
      parquetWriteBuffer({
        columnData: [
          { name: 'sentence', data: Array.from({ length: 4 }, (_, i) => `film ${from + i} `) },
          { name: 'label', data: Array.from({ length: 4 }, (_, i) => BigInt(i % 2)) },
        ],
      }),
    ),
  })

  it('come as the parquet shards that the hub made, once, and serve offline', async () => {
    const files = {
      'sst2/train/0000.parquet': shard(0),
      'sst2/train/0001.parquet': shard(4),
      'sst2/validation/0000.parquet': shard(8),
      'cola/train/0000.parquet': shard(100),
    }
    const hub = await startMockHub({
      'nyu-mll/glue': { refs: { 'refs/convert/parquet': COMMIT }, commits: { [COMMIT]: files } },
    })
    closers.push(() => hub.close())
    const home = tempFolder()
    const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: home }
    const args = [
      'finetune',
      TINY,
      '--device',
      'cpu',
      '--task',
      'sst2',
      '--num-train',
      '5',
      '--num-dev',
      '2',
      '--steps',
      '1',
      '--batch-size',
      '2',
      '--save-model',
      'no',
    ]
    const first = await here([...args, '--output-dir', join(home, 'a')], { env })
    expect(first.code, first.stderr).toBe(0)
    expect(first.stderr).toMatch(/task sst2: 5 training, 2 development and 4 evaluation examples/)
    expect([...hub.served.keys()].sort()).toEqual([
      'sst2/train/0000.parquet',
      'sst2/train/0001.parquet',
      'sst2/validation/0000.parquet',
    ])
    const asked = hub.requests.length
    const offline = { ...env, HF_HUB_OFFLINE: '1' }
    const second = await here([...args, '--output-dir', join(home, 'b')], { env: offline })
    expect(second.code, second.stderr).toBe(0)
    expect(hub.requests.length).toBe(asked)
    const journal = (run: string) => readFileSync(join(home, run, 'journal.jsonl'), 'utf8')
    expect(journal('b')).toBe(journal('a'))
    const missing = await here([...args, '--task', 'rte', '--output-dir', join(home, 'c')], {
      env: offline,
    })
    expect(missing.stderr).toMatch(/HF_HUB_OFFLINE is set.*rte\/train.*--data-dir/)
  })

  it('say when there is none', async () => {
    const hub = await startMockHub({
      'nyu-mll/glue': {
        refs: { 'refs/convert/parquet': COMMIT },
        commits: { [COMMIT]: { 'README.md': { bytes: Buffer.from('x') } } },
      },
    })
    closers.push(() => hub.close())
    process.env['HF_ENDPOINT'] = hub.endpoint
    try {
      const cacheDir = tempFolder()
      await expect(resolveSplit('nyu-mll/glue', 'sst2', 'train', { cacheDir })).rejects.toThrow(
        /no sst2\/train\/0000.parquet/,
      )
    } finally {
      delete process.env['HF_ENDPOINT']
    }
  })
})
