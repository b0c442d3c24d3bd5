// Every command that writes, on the tiny models: what full-disk.ts takes the disk away from.

import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, SHAKESPEARE, TINY } from './cli.ts'
import { finish } from './crash.ts'
import type { Command } from './full-disk.ts'

const NANOGPT = join(ROOT, 'test/fixtures/gpt/nanogpt')

/** Makes what the commands read in `home`; returns them. */
export async function writingCommands(home: string): Promise<Command[]> {
  const [text, data, trained, begun] = ['train.txt', 'data', 'trained', 'begun'].map((name) =>
    join(home, name),
  ) as [string, string, string, string]
  writeFileSync(text, readFileSync(join(SHAKESPEARE, 'train.txt'), 'utf8').slice(0, 3000))
  const prepare = (dir: string) => [
    'prepare',
    'shakespeare_char',
    '--input',
    text,
    '--output-dir',
    dir,
  ]

  const common = ['--device', 'cpu', '--threads', '1', '--batch-size', '1', '--lr', '1e-4']
  const run = (dir: string, steps: number, ...more: string[]) => [
    ...['finetune', TINY, '--train', text, '--eval-file', text, '--eval-samples', '2'],
    ...['--max-length', '8', '--eval-steps', '2', '--steps', `${steps}`, ...common],
    ...['--output-dir', dir, ...more],
  ]
  const dense = [
    '--save-steps',
    '2',
    '--save-total-limit',
    '1',
    '--replay-window',
    '1',
    '--ram',
    '1B',
  ]
  const factored = ['--method', 'lozo-m', '--window', '1', '--fold-windows', '1']
  const gpt = [
    '--n-layer',
    '1',
    '--n-head',
    '1',
    '--n-embd',
    '16',
    '--block-size',
    '16',
    '--eval-iters',
    '1',
  ]

  const once = (name: string, args: Command['args'], before?: Command['before']): Command => ({
    name,
    args,
    resumes: false,
    ...(before && { before }),
  })
  const pretrain = (dir: string) => [
    ...['pretrain', '--dataset', data, '--init-from', 'scratch', ...gpt, ...common],
    ...['--steps', '2', '--eval-interval', '2', '--output-dir', dir],
  ]
  const goOn = async (dir: string) => cpSync(begun, dir, { recursive: true })

  await finish(prepare(data))
  await finish(run(trained, 4, ...factored, '--fold-windows', '9', '--train-only', '*fc1.weight'))
  await finish(run(begun, 2, '--save-steps', '2'))

  return [
    {
      name: 'finetune, mezo-sgd on disk',
      resumes: true,
      args: (dir) => run(dir, 4, ...dense, '--trace', join(dir, 'trace.json')),
    },
    {
      name: 'finetune, lozo-m, best model',
      resumes: true,
      args: (dir) => run(dir, 4, ...factored, '--load-best-model-at-end'),
    },
    {
      name: 'finetune, adapter',
      resumes: true,
      args: (dir) => run(dir, 2, '--lora-rank', '2'),
    },
    {
      name: 'finetune, resumed',
      resumes: false,
      before: goOn,
      args: (dir) => [...run(dir, 4, '--save-steps', '2', '--save-total-limit', '1'), '--resume'],
    },
    { name: 'pretrain', resumes: true, args: pretrain },
    once('prepare', (dir) => prepare(join(dir, 'data'))),
    once('export', (dir) => ['export', trained, join(dir, 'model')]),
    once('export --as-lora', (dir) => ['export', trained, join(dir, 'adapter'), '--as-lora']),
    once('convert', (dir) => ['convert', TINY, join(dir, 'half'), '--to', 'float16']),
    once(
      'convert to ckpt.pt',
      (dir) => ['convert', NANOGPT, join(dir, 'ckpt.pt')],
      async (dir) => {
        mkdirSync(dir)
      },
    ),
    once(
      'report',
      (dir) => ['report', trained, '--output', join(dir, 'page.html')],
      async (dir) => {
        mkdirSync(dir)
      },
    ),
  ]
}
