// Compares the methods at equal forward passes: language-model adaptation (tiny OPT on Shakespeare)
// and the sentiment task; for each method the best of the same grid of rates on seed 0, then all
// seeds with it. Also an ablation of LOZO's window nu with and without the fault of the authors' code,
// where the update of every window's first step is made with other noise than its probes.
// Writes results.json beside this file after each run, and continues from there.
//   npx tsx scripts/compare-methods/run.ts        and `run.ts 1` beside it; about an hour of two cores

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { parseConfig } from '../../src/config/options.ts'
import { packTexts } from '../../src/data/packing.ts'
import { loadExamples } from '../../src/data/examples.ts'
import { itemsAt } from '../../src/data/order.ts'
import type { Example } from '../../src/data/types.ts'
import { evaluateExamples, type Evaluation } from '../../src/train/evaluate.ts'
import { meanLoss } from '../../src/run/journal.ts'
import { tokenizerOf } from '../../src/data/model-tokenizer.ts'
import { silent } from '../../src/util/console.ts'
import { openEngine } from '../../src/engine/open.ts'
import { loadModel } from '../../src/engine/load.ts'
import { zoStep } from '../../src/train/step.ts'

const ROOT = new URL('../../', import.meta.url).pathname
const MODEL = `${ROOT}test/fixtures/tiny-opt`
const SEEDS = [0, 1, 2]
/** Evaluations over a run, besides the first. */
const EVALUATIONS = 5

const TASKS = {
  shakespeare: {
    data: { train: 'examples/tinyshakespeare/train.txt', held: 'examples/tinyshakespeare/val.txt' },
    config: { batchSize: 8, maxLength: 64 },
    held: 48,
    // A step of one direction is two forward passes.
    forwards: 800,
  },
  sentiment: {
    data: { train: 'examples/sentiment/train.jsonl', held: 'examples/sentiment/dev.jsonl' },
    config: {
      batchSize: 8,
      maxLength: 64,
      template: '{text} It was',
      labelWords: 'terrible,great',
    },
    held: 100,
    forwards: 400,
  },
} as const
type Task = keyof typeof TASKS

const METHODS: Readonly<Record<string, Record<string, unknown>>> = {
  'mezo-sgd': { method: 'mezo-sgd' },
  lozo: { method: 'lozo', rank: 2, window: 50 },
  'lozo-m': { method: 'lozo-m', rank: 2, window: 50 },
  kronzo: { method: 'kronzo', window: 50 },
  'kronzo-m': { method: 'kronzo-m', window: 50 },
  'lozo, 4 directions': { method: 'lozo', rank: 2, window: 50, probes: 4 },
}
const RATES = [3e-5, 1e-4, 3e-4, 1e-3]
const WINDOWS = [1, 50]
const ABLATION_FORWARDS = 400

interface Job {
  readonly key: string
  readonly forwards: number
  readonly task: Task
  readonly label: string
  readonly options: Record<string, unknown>
  readonly fault: boolean
}

interface Result extends Omit<Job, 'key'> {
  /** Forward passes, evaluation and mean step time so far, ms. */
  readonly curve: readonly { forwards: number; loss: number; accuracy?: number; seconds: number }[]
  readonly trainLoss: readonly number[]
}

const FILE = new URL('./results.json', import.meta.url)
const read = (): Record<string, Result> =>
  existsSync(FILE) ? (JSON.parse(readFileSync(FILE, 'utf8')) as Record<string, Result>) : {}

const job = (task: Task, label: string, options: Record<string, unknown>, fault = false): Job => ({
  task,
  label,
  options,
  fault,
  forwards: TASKS[task].forwards,
  key: [task, label, options['lr'], options['seed'], ...(fault ? ['fault'] : [])].join(' | '),
})

/** The rate whose last evaluation on seed 0 has the lowest loss. */
function bestRate(results: Record<string, Result>, task: Task, label: string): number {
  const final = (lr: number) =>
    results[job(task, label, { lr, seed: 0 }).key]?.curve.at(-1)?.loss ?? Infinity
  return RATES.reduce((best, lr) => (final(lr) < final(best) ? lr : best))
}

function jobs(results: Record<string, Result>, phase: number): Job[] {
  const tasks = Object.keys(TASKS) as Task[]
  if (phase === 0) {
    return tasks.flatMap((task) =>
      Object.entries(METHODS).flatMap(([label, options]) =>
        RATES.map((lr) => job(task, label, { ...options, lr, seed: 0 })),
      ),
    )
  }
  const rest = tasks.flatMap((task) =>
    Object.entries(METHODS).flatMap(([label, options]) =>
      SEEDS.slice(1).map((seed) =>
        job(task, label, { ...options, lr: bestRate(results, task, label), seed }),
      ),
    ),
  )
  const lr = bestRate(results, 'shakespeare', 'lozo')
  const ablation = WINDOWS.flatMap((window) =>
    [false, true].flatMap((fault) =>
      SEEDS.map((seed) => ({
        ...job(
          'shakespeare',
          `lozo, nu ${window}`,
          { method: 'lozo', rank: 2, window, lr, seed },
          fault,
        ),
        forwards: ABLATION_FORWARDS,
      })),
    ),
  )
  return [...rest, ...ablation]
}

async function run({ task, label, options, fault, forwards: budget }: Job): Promise<Result> {
  const { data, config: own, held } = TASKS[task]
  const config = parseConfig({ device: 'cpu', threads: 1, memory: '1GiB', ...own, ...options })
  const { directions } = config
  const steps = budget / (2 * directions)
  const loaded = await loadModel(MODEL, config, silent)
  const tokenizer = await tokenizerOf(loaded)
  const [train, heldOut] = await Promise.all([read(data.train), read(data.held)])
  const { engine, close } = await openEngine(
    loaded,
    { ...config, steps },
    { updates: [], folded: 0, trains: true, scratchDir: tmpdir() },
  )
  if (fault) {
    // The authors' code draws V, then U, when it perturbs, but only U when it updates: other noise.
    const push = engine.push.bind(engine)
    engine.push = (update) =>
      push(update.step % config.window === 0 ? { ...update, step: update.step + 2 ** 31 } : update)
  }
  const curve: Result['curve'][number][] = []
  const trainLoss: number[] = []
  let seconds = 0
  const evaluate = async (step: number) => {
    const e: Evaluation = await evaluateExamples(engine, heldOut.slice(0, held), {})
    const { loss, accuracy } = e
    const forwards = step * 2 * directions
    curve.push({ forwards, loss, ...(accuracy !== undefined && { accuracy }), seconds })
  }
  try {
    await evaluate(0)
    for (let step = 0; step < steps; step++) {
      const started = performance.now()
      const entry = await zoStep(engine, {
        batches: [packTexts(itemsAt(train, step, config.batchSize, config.seed))],
        step,
        lr: config.lr,
        eps: config.eps,
        weightDecay: 0,
        append: () => Promise.resolve(),
      })
      seconds += (performance.now() - started) / 1000
      trainLoss.push(Number(meanLoss(entry)?.toFixed(4) ?? NaN))
      if (((step + 1) * EVALUATIONS) % steps === 0) await evaluate(step + 1)
    }
  } finally {
    await close()
  }
  return { task, label, options, fault, forwards: budget, curve, trainLoss }

  async function read(file: string): Promise<readonly Example[]> {
    const { maxLength, template, labelWords } = config
    const { maxPositions } = loaded.model
    const set = await loadExamples(ROOT + file, tokenizer, {
      maxLength,
      template,
      labelWords,
      maxPositions,
    })
    return set.examples
  }
}

const [worker = 0] = process.argv.slice(2).map(Number)
for (const phase of [0, 1]) {
  for (;;) {
    const results = read()
    const all = jobs(results, phase)
    const missing = all.filter(({ key }) => !results[key])
    // Two workers meet in the middle.
    const mine = worker === 1 ? missing.at(-1) : missing[0]
    if (!mine) break
    const made = await run(mine)
    const now = read() // another worker may have written meanwhile
    writeFileSync(FILE, JSON.stringify({ ...now, [mine.key]: made }))
    const last = made.curve.at(-1)!
    process.stdout.write(
      `${mine.key}: loss ${made.curve[0]!.loss.toFixed(4)} -> ${last.loss.toFixed(4)}${last.accuracy === undefined ? '' : `, accuracy ${last.accuracy.toFixed(3)}`}, ${last.seconds.toFixed(0)} s\n`,
    )
  }
}
