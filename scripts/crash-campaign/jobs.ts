// The commands that a campaign kills: runs of every kind of method with folds, evaluations, saved
// checkpoints and the best model, pre-training, exports and conversions; all on the tiny OPT.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cli, SHAKESPEARE, TINY } from '../../test/helpers/cli.ts'
import type { Rhythm, Target } from './phases.ts'

export interface Job {
  readonly name: string
  /** The command that writes into `dir`. */
  readonly args: (dir: string) => string[]
  /** Goes on with --resume; any other is started again as it was. */
  readonly resumes: boolean
  readonly rhythm: Rhythm
  /** Phases to kill it in. */
  readonly targets: readonly Target[]
}

const STEPS = 24
const RUN: readonly Target[] = ['training', 'evaluation', 'saving', 'folding', 'export']

/** Makes the data and a finished run to export; returns all jobs. */
export async function makeJobs(home: string): Promise<Job[]> {
  const text = readFileSync(join(SHAKESPEARE, 'train.txt'), 'utf8')
  const [train, data, trained] = ['train.txt', 'data', 'trained'].map((name) => join(home, name))
  writeFileSync(train!, text.slice(0, 6000))
  await done(['prepare', 'shakespeare_char', '--input', train!, '--output-dir', data!])

  const common = ['--device', 'cpu', '--threads', '1', '--logging-steps', '1']
  const tiny = [
    '--train',
    train!,
    '--eval-file',
    train!,
    '--eval-samples',
    '24',
    '--max-length',
    '16',
  ]
  const rhythm = {
    evalSteps: 6,
    saveSteps: 5,
    steps: STEPS,
    evalOnStart: true,
    foldTiles: 1,
    model: 'model',
  }
  const schedule = [
    '--steps',
    `${STEPS}`,
    '--eval-steps',
    '6',
    '--save-steps',
    '5',
    '--batch-size',
    '2',
  ]
  const run = (name: string, ...own: string[]): Job => ({
    name,
    resumes: true,
    rhythm,
    targets: RUN,
    args: (dir) => {
      const shared = [...tiny, ...common, ...schedule, '--lr', '1e-4', '--output-dir', dir]
      return ['finetune', TINY, ...shared, '--method', ...own]
    },
  })
  const once = (name: string, ...command: string[]): Job => ({
    name,
    resumes: false,
    targets: ['export'],
    rhythm: {
      evalSteps: 0,
      saveSteps: 0,
      steps: 0,
      evalOnStart: false,
      foldTiles: 1,
      model: 'model',
    },
    args: (dir) => [...command, join(dir, 'model')],
  })
  const jobs = [
    run(
      'mezo-sgd',
      'mezo-sgd',
      '--replay-window',
      '2',
      '--save-total-limit',
      '1',
      '--load-best-model-at-end',
    ),
    run('mezo-sgd on disk', 'mezo-sgd', '--replay-window', '3', '--ram', '1B'),
    run('lozo', 'lozo', '--window', '3', '--fold-windows', '1', '--save-total-limit', '2'),
    run(
      'lozo-m on disk',
      'lozo-m',
      '--window',
      '3',
      '--fold-windows',
      '2',
      '--ram',
      '1B',
      '--load-best-model-at-end',
    ),
    run('kronzo', 'kronzo', '--window', '4', '--fold-windows', '1', '--ram', '1B'),
    run('kronzo-m', 'kronzo-m', '--window', '4', '--fold-windows', '1', '--save-total-limit', '1'),
    pretrainJob(data!, [...common, ...schedule], rhythm),
    once('zo2 export', 'export', trained!),
    once('zo2 convert', 'convert', TINY),
  ]
  await done(jobs[0]!.args(trained!))
  return jobs
}

function pretrainJob(data: string, shared: readonly string[], rhythm: Rhythm): Job {
  const shape = [
    '--n-layer',
    '2',
    '--n-head',
    '2',
    '--n-embd',
    '64',
    '--block-size',
    '32',
    '--eval-iters',
    '8',
  ]
  const own = [
    '--method',
    'lozo',
    '--window',
    '3',
    '--fold-windows',
    '1',
    '--lr',
    '1e-2',
    '--init-from',
    'scratch',
  ]
  return {
    name: 'pretrain',
    resumes: true,
    rhythm,
    targets: RUN,
    args: (dir) => [
      'pretrain',
      '--dataset',
      data,
      ...shape,
      ...shared,
      ...own,
      '--output-dir',
      dir,
    ],
  }
}

/** Runs a command to its end. */
async function done(args: readonly string[]): Promise<void> {
  const { code, stderr } = await cli(args)
  if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}: ${stderr}`)
}

/** Names of what a kill has left half-written. */
export function leftoversIn(dir: string): string[] {
  mkdirSync(dir, { recursive: true })
  return readdirSync(dir).filter((name) => name.startsWith('.'))
}
