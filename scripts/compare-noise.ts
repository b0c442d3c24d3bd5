// Whether directions of single bits (--noise rademacher) learn as well as gaussian ones: the tiny OPT on the
// sentiment task and on Shakespeare, MeZO and LOZO, three rates, three seeds, the same number of forward passes.
// Runs are ordinary `zo2 finetune` runs; results go to out/compare-noise.jsonl, from where it continues.
//   npx tsx scripts/compare-noise.ts [steps]

import { execFileSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const OUT = join(ROOT, 'out', 'compare-noise.jsonl')
const [steps = '400'] = process.argv.slice(2)
const SEEDS = [0, 1, 2]
const NOISES = ['gaussian', 'rademacher']
/** The largest rate of each is near where it stops learning. */
const RATES: Readonly<Record<string, readonly string[]>> = {
  sentiment: ['1e-5', '3e-5', '1e-4'],
  shakespeare: ['3e-5', '1e-4', '3e-4'],
}
const TASKS: Readonly<Record<string, readonly string[]>> = {
  sentiment: [
    ...['--train', 'examples/sentiment/train.jsonl', '--eval-file', 'examples/sentiment/dev.jsonl'],
    ...['--template', '{text} It was', '--label-words', 'terrible,great'],
  ],
  shakespeare: [
    ...['--train', 'examples/tinyshakespeare/train.txt'],
    ...['--eval-file', 'examples/tinyshakespeare/val.txt', '--eval-samples', '48'],
  ],
}

interface Run {
  readonly task: string
  readonly method: string
  readonly noise: string
  readonly lr: string
  readonly seed: number
  readonly steps: string
}

interface Result extends Run {
  readonly loss: number | null
}

const keyOf = ({ task, method, noise, lr, seed, steps: of }: Run) =>
  [task, method, noise, lr, seed, of].join(' ')

/** The held-out loss at the end; null if it is no number. */
function train({ task, method, noise, lr, seed }: Run): number | null {
  const dir = mkdtempSync(join(tmpdir(), 'zo2-noise-'))
  try {
    const fixed = [
      '--batch-size',
      '8',
      '--max-length',
      '64',
      '--device',
      'cpu',
      '--save-model',
      'no',
    ]
    const own = ['--method', method, '--noise', noise, '--lr', lr, '--seed', String(seed)]
    const where = ['--steps', steps, '--eval-steps', steps, '--output-dir', join(dir, 'run')]
    const model = 'test/fixtures/tiny-opt'
    const args = ['bin/zo2.js', 'finetune', model, ...TASKS[task]!, ...fixed, ...own, ...where]
    execFileSync(process.execPath, [...args, '--quiet'], { cwd: ROOT, stdio: 'ignore' })
    const lines = readFileSync(join(dir, 'run', 'evals.jsonl'), 'utf8')
      .trim()
      .split('\n')
    const { loss } = JSON.parse(lines.at(-1)!) as { loss: number | null }
    return loss
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const all: Run[] = Object.keys(TASKS).flatMap((task) =>
  ['mezo-sgd', 'lozo'].flatMap((method) =>
    RATES[task]!.flatMap((lr) =>
      SEEDS.flatMap((seed) => NOISES.map((noise) => ({ task, method, noise, lr, seed, steps }))),
    ),
  ),
)
mkdirSync(join(ROOT, 'out'), { recursive: true })
const results = new Map<string, Result>()
const known = existsSync(OUT) ? readFileSync(OUT, 'utf8').trim().split('\n') : []
for (const line of known) {
  const result = JSON.parse(line) as Result
  results.set(keyOf(result), result)
}
for (const run of all) {
  if (results.has(keyOf(run))) continue
  const result = { ...run, loss: train(run) }
  results.set(keyOf(run), result)
  appendFileSync(OUT, `${JSON.stringify(result)}\n`)
  process.stderr.write(`${keyOf(run)}: ${result.loss?.toFixed(4) ?? 'no number'}\n`)
}

/** "mean (smallest to largest)" over the seeds. */
function spread(of: Omit<Run, 'seed'>): string {
  const losses = SEEDS.map((seed) => results.get(keyOf({ ...of, seed }))!.loss ?? Infinity)
  const mean = losses.reduce((a, b) => a + b, 0) / losses.length
  return `${mean.toFixed(3)} (${Math.min(...losses).toFixed(3)} to ${Math.max(...losses).toFixed(3)})`
}
const say = (...cells: string[]) => process.stdout.write(`| ${cells.join(' | ')} |\n`)
say('task, method, rate', ...NOISES)
say('---', ...NOISES.map(() => '---:'))
for (const { task, method, lr } of all.filter(
  ({ seed, noise }) => seed === 0 && noise === NOISES[0],
)) {
  say(
    `${task}, ${method}, ${lr}`,
    ...NOISES.map((noise) => spread({ task, method, lr, noise, steps })),
  )
}
