// Tasks end to end: `finetune --task` and `eval --task` on the tiny OPT for a classification, a multiple-choice
// and a generation task, and splits from a hub. The objectives themselves: objectives.test.ts.
// Alone: npx vitest run test/runs/task-runs.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { afterAll, describe, expect, it } from 'vitest'
import { resolveSplit } from '../../src/hub/dataset.ts'
import { here, hereJson, ROOT, SENTIMENT, TINY } from '../helpers/cli.ts'
import { startMockHub } from '../helpers/mock-hub.ts'
import { tempFolder } from '../helpers/runs.ts'

const FIXTURES = join(ROOT, 'test/fixtures/tasks')

const closers: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const close of closers) await close()
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
    const score = await hereJson(['eval', join(dir, 'model'), '--task', task, ...small, ...own])
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
      const flags = ['--objective', objective, '--save-model', 'no']
      if (objective === 'f1') flags.push('--max-new-tokens', '2')
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
