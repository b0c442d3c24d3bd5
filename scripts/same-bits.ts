// Compares this checkout with another one, run by run: journal, evaluations, exported weights and
// generated texts of every method, on both devices, streamed and resident, and after a resume, must be
// the same bytes. For changes that move code and mean to change nothing. Both checkouts must be built.
//
//   node --import tsx scripts/same-bits.ts OTHER_CHECKOUT [--only PATTERN]

import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

const HERE = resolve(import.meta.dirname, '..')
const run = promisify(execFile)

interface Case {
  readonly name: string
  /** Commands one after another; OUT stands for the case's own folder. */
  readonly commands: readonly (readonly string[])[]
}

const FIXTURES = 'test/fixtures'
const TINY = `${FIXTURES}/tiny-opt`
const SENTIMENT = 'examples/sentiment'
const DATA = [
  '--train',
  `${SENTIMENT}/train.jsonl`,
  '--template',
  '{text} It was',
  '--label-words',
  'terrible,great',
]
const HELD = ['--eval-file', `${SENTIMENT}/dev.jsonl`, '--eval-samples', '20', '--eval-steps', '4']
const SIZE = ['--batch-size', '4', '--max-length', '48', '--threads', '2']
const DEVICES: Readonly<Record<string, readonly string[]>> = {
  cpu: ['--device', 'cpu'],
  webgpu: ['--adapter', process.env['ZO2_TEST_ADAPTER'] ?? 'llvmpipe'],
}
const METHODS: Readonly<Record<string, readonly string[]>> = {
  'mezo-sgd': ['--weight-decay', '0.01'],
  lozo: ['--window', '3', '--fold-windows', '1'],
  'lozo-m': ['--window', '3', '--fold-windows', '1'],
  kronzo: ['--window', '3'],
  'kronzo-m': ['--window', '4'],
}

const tune = (model: string, ...more: string[]) => [
  'finetune',
  model,
  ...DATA,
  ...SIZE,
  '--lr',
  '1e-4',
  '--output-dir',
  'OUT/run',
  ...more,
]

function cases(): Case[] {
  const list: Case[] = []
  for (const [device, where] of Object.entries(DEVICES)) {
    for (const [method, own] of Object.entries(METHODS)) {
      const args = ['--method', method, ...own, ...where]
      list.push(
        {
          name: `${device} ${method} resident`,
          commands: [tune(TINY, '--steps', '8', ...HELD, ...args)],
        },
        {
          name: `${device} ${method} streamed, saved, resumed, exported`,
          commands: [
            tune(
              TINY,
              '--steps',
              '5',
              '--resident',
              'none',
              '--slab',
              '64KiB',
              '--save-steps',
              '3',
              ...args,
            ),
            tune(
              TINY,
              '--steps',
              '9',
              '--resident',
              'none',
              '--slab',
              '64KiB',
              '--save-steps',
              '3',
              '--resume',
              ...args,
            ),
            ['export', 'OUT/run', 'OUT/exported', '--step', '6', '--dtype', 'float16'],
          ],
        },
      )
    }
    const extra: Readonly<Record<string, readonly string[]>> = {
      'two directions': ['--probes', '2'],
      'one-sided': ['--estimator', 'one-sided', '--probes', '3', '--method', 'lozo'],
      'float16 overlay': ['--overlay-dtype', 'float16', '--replay-window', '2'],
      'float16 activations': ['--activation-dtype', 'float16', '--method', 'lozo'],
      lora: ['--lora-rank', '4'],
      prefix: ['--prefix-tokens', '4'],
      'layers per step': ['--layers-per-step', '1', '--adaptive-eps'],
      frozen: ['--freeze', '*embed*', '--method', 'lozo'],
      accuracy: ['--objective', 'accuracy'],
      options: ['--train-as-classification', '--accumulate', '2', '--lr-schedule', 'cosine'],
      'small budget': ['--memory', '24MiB'],
    }
    for (const [name, args] of Object.entries(extra)) {
      list.push({
        name: `${device} ${name}`,
        commands: [tune(TINY, '--steps', '4', ...HELD, ...args, ...where)],
      })
    }
    for (const layout of ['post-norm-proj', 'untied', 'bf16', 'sharded-bin']) {
      const args = [
        '--train',
        'README.md',
        '--max-length',
        '24',
        '--steps',
        '3',
        '--batch-size',
        '2',
      ]
      const model = `${FIXTURES}/layouts/${layout}`
      if (
        existsSync(join(HERE, model, 'tokenizer.json')) ||
        existsSync(join(HERE, model, 'vocab.json'))
      )
        list.push({
          name: `${device} ${layout}`,
          commands: [['finetune', model, ...args, ...where, '--output-dir', 'OUT/run']],
        })
    }
    list.push(
      {
        name: `${device} pretrain, sample`,
        commands: [
          ['prepare', 'shakespeare_char', '--output-dir', 'OUT/data'],
          [
            'pretrain',
            '--dataset',
            'OUT/data',
            '--n-layer',
            '2',
            '--n-head',
            '2',
            '--n-embd',
            '32',
            '--block-size',
            '16',
            '--batch-size',
            '4',
            '--steps',
            '6',
            '--eval-steps',
            '3',
            '--eval-iters',
            '2',
            '--lr',
            '1e-3',
            '--output-dir',
            'OUT/run',
            ...where,
          ],
          [
            'sample',
            '--out-dir',
            'OUT/run',
            '--num-samples',
            '2',
            '--max-new-tokens',
            '12',
            '--json',
            ...where,
          ],
        ],
      },
      {
        name: `${device} eval, generate`,
        commands: [
          [
            'eval',
            TINY,
            '--eval-file',
            `${SENTIMENT}/dev.jsonl`,
            '--template',
            '{text} It was',
            '--label-words',
            'terrible,great',
            '--eval-samples',
            '40',
            '--json',
            ...where,
          ],
          [
            'generate',
            TINY,
            '--prompt',
            'The king',
            'My lord and',
            '--max-new-tokens',
            '12',
            '--temperature',
            '0.9',
            '--json',
            ...where,
          ],
          [
            'generate',
            TINY,
            '--prompt',
            'The king',
            '--num-beams',
            '3',
            '--max-new-tokens',
            '8',
            '--json',
            ...where,
          ],
        ],
      },
    )
  }
  return list
}

/** What must not differ: contents by name of all files that hold results, and what was printed. */
async function resultsOf(checkout: string, { commands }: Case): Promise<Map<string, string>> {
  const out = mkdtempSync(join(tmpdir(), 'same-bits-'))
  try {
    const results = new Map<string, string>()
    const { bin } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8')) as {
      bin: { zo2: string }
    }
    for (const [i, command] of commands.entries()) {
      const args = command.map((arg) => arg.replace(/^OUT\//, `${out}/`))
      try {
        const { stdout } = await run(
          process.execPath,
          [join(checkout, bin.zo2), '--quiet', ...args].filter((a) => a !== '--quiet'),
          { cwd: HERE, maxBuffer: 2 ** 28 },
        )
        if (command.includes('--json')) results.set(`output ${i}`, stdout)
      } catch (error) {
        const said = (error as { stderr?: string }).stderr?.split('\n').at(-2) ?? String(error)
        results.set(`command ${i}, which failed: ${said}`, checkout)
      }
    }
    const visit = (dir: string) => {
      for (const name of readdirSync(dir).sort()) {
        const path = join(dir, name)
        if (statSync(path).isDirectory()) visit(path)
        else if (/^journal\.jsonl$|^evals\.jsonl$|\.safetensors$|\.bin$/.test(name)) {
          results.set(
            path.slice(out.length + 1),
            createHash('sha256').update(readFileSync(path)).digest('hex'),
          )
        }
      }
    }
    visit(out)
    return results
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
}

const [other, ...flags] = process.argv.slice(2)
if (other === undefined) throw new Error('expected the folder of another checkout')
const only = flags[0] === '--only' ? new RegExp(flags[1]!) : /./
let different = 0
const chosen = cases().filter(({ name }) => only.test(name))
for (const each of chosen) {
  const [mine, theirs] = await Promise.all([resultsOf(HERE, each), resultsOf(resolve(other), each)])
  const names = [...new Set([...mine.keys(), ...theirs.keys()])].sort()
  const wrong = names.filter((name) => mine.get(name) !== theirs.get(name))
  if (wrong.length > 0 || names.length === 0) different++
  process.stdout.write(
    `${wrong.length === 0 ? 'same ' : 'DIFFERS'} ${each.name} (${names.length} files)${wrong.map((w) => `\n    ${w}`).join('')}\n`,
  )
}
process.stdout.write(`${chosen.length - different} of ${chosen.length} cases have the same bytes\n`)
process.exitCode = different === 0 ? 0 : 1
