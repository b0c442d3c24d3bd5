// What zeroth-order training from scratch can do: validation loss on shakespeare_char of every method at
// equal forward passes, by `zo2 pretrain` itself on a small nanoGPT. For each method the best of
// three rates on seed 0, then the other seeds with it. Writes results.json beside this file after each run and
// continues from there; then `table.ts`.
//   npx tsx scripts/pretrain-losses/run.ts --input examples/tinyshakespeare/train.txt examples/tinyshakespeare/val.txt
// About a quarter of an hour of one core.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { parseConfig } from '../../src/config/options.ts'
import { prepare } from '../../src/data/prepare.ts'
import { pretrain } from '../../src/train/pretrain.ts'
import { silent } from '../../src/util/console.ts'
import { readSteps } from '../../src/run/folder.ts'

const SEEDS = [0, 1, 2]
const RATES = [1e-3, 3e-3, 1e-2]
/** A step of one direction is two forward passes of a batch. */
const FORWARDS = 3000
const EVALUATIONS = 5

const SETUP = {
  nLayer: 2,
  nHead: 2,
  nEmbd: 64,
  maxLength: 64,
  batchSize: 12,
  evalIters: 40,
  lrSchedule: 'cosine',
  eps: 1e-3,
  device: 'cpu',
  threads: 1,
}

const METHODS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'mezo-sgd': { method: 'mezo-sgd' },
  lozo: { method: 'lozo', rank: 2, window: 50 },
  'lozo-m': { method: 'lozo-m', rank: 2, window: 50 },
  kronzo: { method: 'kronzo', window: 50 },
  'kronzo-m': { method: 'kronzo-m', window: 50 },
  'lozo, 4 directions': { method: 'lozo', rank: 2, window: 50, probes: 4 },
}

interface Result {
  readonly method: string
  readonly lr: number
  readonly seed: number
  readonly curve: readonly { forwards: number; val_loss: number; train_loss: number }[]
  readonly seconds: number
}

interface Results {
  readonly setup: object
  readonly forwards: number
  /** Of val.bin under the frequencies of train.bin's tokens, nats. */
  readonly unigram_loss: number
  readonly runs: Readonly<Record<string, Result>>
}

const FILE = new URL('./results.json', import.meta.url)
const { values, positionals } = parseArgs({
  options: { input: { type: 'string' }, limit: { type: 'string', default: 'Infinity' } },
  allowPositionals: true,
})
if (!values.input) throw new Error('usage: run.ts --input FILE [FILE...] [--limit RUNS]')
const inputs = [values.input, ...positionals]

const work = mkdtempSync(join(tmpdir(), 'zo2-losses-'))
try {
  const dataset = join(work, 'data')
  const { vocab_size } = await prepare('shakespeare_char', { inputs, outputDir: dataset })
  const before = existsSync(FILE) ? (JSON.parse(readFileSync(FILE, 'utf8')) as Results).runs : {}
  const runs: Record<string, Result> = { ...before }
  const unigram_loss = unigramLoss(dataset, vocab_size)
  let left = Number(values.limit)
  const once = async (method: string, lr: number, seed: number) => {
    const key = `${method} | ${lr} | ${seed}`
    if (runs[key] || left-- <= 0) return
    const run = await train(dataset, method, lr, seed)
    runs[key] = run
    const results: Results = { setup: SETUP, forwards: FORWARDS, unigram_loss, runs }
    writeFileSync(FILE, JSON.stringify(results, null, 1) + '\n')
    process.stdout.write(
      `${key}: ${run.curve.at(0)?.val_loss.toFixed(4)} -> ${run.curve.at(-1)?.val_loss.toFixed(4)}, ${run.seconds} s\n`,
    )
  }
  for (const method of Object.keys(METHODS)) for (const lr of RATES) await once(method, lr, 0)
  for (const method of Object.keys(METHODS)) {
    for (const seed of SEEDS.slice(1)) await once(method, bestRate(method), seed)
  }

  function bestRate(method: string): number {
    const end = (lr: number) => runs[`${method} | ${lr} | 0`]?.curve.at(-1)?.val_loss ?? Infinity
    return RATES.reduce((best, lr) => (end(lr) < end(best) ? lr : best))
  }
} finally {
  rmSync(work, { recursive: true, force: true })
}

async function train(dataset: string, method: string, lr: number, seed: number): Promise<Result> {
  const outputDir = mkdtempSync(join(work, 'run-'))
  const options = METHODS[method]!
  const perStep = 2 * Number(options['probes'] ?? 1)
  const steps = FORWARDS / perStep
  const config = parseConfig({
    ...SETUP,
    ...options,
    dataset,
    lr,
    seed,
    steps,
    outputDir,
    evalSteps: steps / EVALUATIONS,
    tensorboard: false,
    saveModel: false,
  })
  const started = performance.now()
  await pretrain(config, silent, new AbortController().signal)
  const seconds = Math.round((performance.now() - started) / 1000)
  const digits = (x: unknown) => Math.round(Number(x) * 1e5) / 1e5
  const evaluations = await readSteps(join(outputDir, 'evals.jsonl'))
  const curve = evaluations.map(({ step, loss, train_loss }) => ({
    forwards: step * perStep,
    val_loss: digits(loss),
    train_loss: digits(train_loss),
  }))
  rmSync(outputDir, { recursive: true, force: true })
  return { method, lr, seed, curve, seconds }
}

/** Mean cross-entropy of val.bin, one added to every count. */
function unigramLoss(dataset: string, vocab: number): number {
  const ids = (split: string) => {
    const bytes = readFileSync(join(dataset, `${split}.bin`))
    return new Uint16Array(Uint8Array.from(bytes).buffer)
  }
  const counts = new Float64Array(vocab).fill(1)
  const train = ids('train')
  for (const id of train) counts[id]!++
  const held = ids('val')
  const sum = held.reduce((total, id) => total - Math.log(counts[id]! / (train.length + vocab)), 0)
  return sum / held.length
}
