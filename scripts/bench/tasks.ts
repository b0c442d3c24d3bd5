// Bench (g): steps and evaluations on task data of real lengths, where what is padding, or a prompt again,
// counts: PyTorch as MeZO's code does it (every option a row, padded on the left to a multiple of eight) and the
// cpu device, the same examples on both sides, in turns. The losses of unperturbed weights must agree to 1e-4.
//   bash scripts/bench/run.sh g [--data-dir FOLDER] [--tasks sst2,rte,trec] [--size opt-125m] [--batch 16]
//     [--methods mezo-sgd,lozo,eval] [--noise gaussian,rademacher] [--rounds 5] [--steps 2]

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadExamples } from '../../src/data/examples.ts'
import { loadGpt2Tokenizer } from '../../src/data/gpt-tokenizers.ts'
import { itemsAt } from '../../src/data/order.ts'
import { TASKS } from '../../src/data/tasks/index.ts'
import { filesIn, loadTaskData } from '../../src/data/tasks/load.ts'
import { IGNORED, type Example, type Tokenizer } from '../../src/data/types.ts'
import { checkpoint } from './checkpoint.ts'
import { flags, listed, median, note, OUT, record, ROOT, say, spread, table } from './common.ts'
import { type Case, startSystem, type System, type TaskBatch } from './process.ts'
import { type Peers, startPeers } from './pytorch.ts'
import { OURS } from './rounds.ts'

const options = flags({
  python: 'python3',
  'data-dir': join(ROOT, 'examples'),
  tasks: 'sst2,rte,trec',
  size: 'opt-125m',
  batch: '16',
  methods: 'lozo,mezo-sgd,eval',
  noise: 'gaussian,rademacher',
  rounds: '5',
  steps: '2',
  memory: '1GiB',
  blas: 'auto',
})
/** An evaluation takes this many times the batches of a step's round: what it packs together is more than one. */
const EVAL_BATCHES = 8
const LOSS_TOLERANCE = 1e-4
const BOS = 2
const MAX_LENGTH = 512

/** OPT's vocabulary has GPT-2's pieces: as many tokens, under other numbers, behind </s>. */
async function optLike(): Promise<Tokenizer> {
  const gpt2 = await loadGpt2Tokenizer()
  return {
    ...gpt2,
    encode: (text, { bos = true } = {}) => [...(bos ? [BOS] : []), ...gpt2.encode(text)],
  }
}

/** The examples of a task: MeZO's prompts, of TREC the six classes as words; of `examples` its sentences. */
async function examplesOf(task: string, tokenizer: Tokenizer): Promise<readonly Example[]> {
  const dir = options['data-dir']
  const words = (file: string, template: string, labelWords: string[], labelColumn = 'label') =>
    loadExamples(file, tokenizer, { template, labelWords, labelColumn, maxLength: MAX_LENGTH })
  if (task === 'sentiment') {
    const file = join(dir, 'sentiment', 'train.jsonl')
    return (await words(file, '{text} It was', ['terrible', 'great'])).examples
  }
  if (task === 'trec') {
    const classes = ['Expression', 'Entity', 'Description', 'Human', 'Location', 'Number']
    const file = join(dir, 'trec', 'train.jsonl')
    return (await words(file, '{text} It is about a', classes, 'coarse_label')).examples
  }
  const known = TASKS.get(task)!
  const data = await loadTaskData(known, filesIn(dir, known), tokenizer, {
    numTrain: 500,
    numDev: 0,
    numEval: 1,
    trainSetSeed: 0,
    maxLength: MAX_LENGTH,
    maxNewTokens: 1,
    maxPositions: 2048,
    calibration: 'none',
    onlyAnswer: false,
  })
  return data.train
}

/** The batch of a step, as both sides read it. */
const batchOf = (examples: readonly Example[], step: number): TaskBatch =>
  itemsAt(examples, step, Number(options.batch), 0).map(({ options: own = [], answer = 0 }) => ({
    answer,
    options: own.map(({ inputIds, labels }) => ({
      ids: inputIds,
      answerTokens: labels.filter((label) => label !== IGNORED).length,
    })),
  }))

function checkLosses(theirs: number, ours: number, of: string) {
  if (Math.abs(theirs - ours) <= LOSS_TOLERANCE * Math.abs(theirs)) return
  throw new Error(`${of}: the losses differ: PyTorch has ${theirs}, zo2 ${ours}`)
}

/** Medians of every round of both sides. */
async function measure(theirs: Peers, ours: System, of: Case) {
  const settings = {
    device: 'cpu',
    blas: options.blas,
    memory: options.memory,
    resident: 'auto',
  } as const
  const steps = Number(options.steps) * (of.method === 'eval' ? EVAL_BATCHES : 1)
  const same = { ...of, method: 'eval', fresh: true } as const
  const [a, b] = [
    await theirs.time({ ...same, first: 0, steps: 1 }),
    await ours.time({ ...same, ...settings, first: 0, steps: 1 }),
  ]
  for (const { loss } of a.answers) checkLosses(loss, b.loss, of.task!)
  // Past the first steps: MeZO's owed updates in their steady state.
  await theirs.time({ ...of, first: 0, steps: 1 })
  await ours.time({ ...of, ...settings, first: 0, steps: 3 })
  const times: { theirs: number[]; ours: number[] } = { theirs: [], ours: [] }
  for (let round = 1; round <= Number(options.rounds); round++) {
    const span = { first: round * steps, steps }
    times.theirs.push((await theirs.time({ ...of, ...span })).ms)
    times.ours.push(median((await ours.time({ ...of, ...settings, ...span })).ms))
  }
  return { times, detail: [...a.answers, b].map(({ detail }) => detail) }
}

const tokenizer = await optLike()
const model = await checkpoint(options.size)
mkdirSync(OUT, { recursive: true })
const theirs = startPeers(options.python)
const ours = startSystem('zo2', OURS)
const rows: string[][] = []
try {
  for (const task of listed(options.tasks)) {
    const examples = await examplesOf(task, tokenizer)
    const file = join(OUT, `task-${task}.json`)
    const count = (Number(options.rounds) + 2) * Number(options.steps) * EVAL_BATCHES + 3
    const batches = Array.from({ length: count }, (_, step) => batchOf(examples, step))
    writeFileSync(file, JSON.stringify(batches))
    for (const method of listed(options.methods) as Case['method'][]) {
      for (const noise of method === 'mezo-sgd' ? listed(options.noise) : ['gaussian']) {
        const of: Case = { model, method, task: file, noise }
        const { times, detail } = await measure(theirs, ours, of)
        const ratios = times.theirs.map((ms, i) => ms / times.ours[i]!)
        record('tasks', { task, method, noise, size: options.size, times, ratios, detail })
        if (rows.length === 0) note(detail.join('; '))
        const cells = [times.theirs, times.ours].map((ms) => spread(ms))
        rows.push([`${task}, ${method}, ${noise}`, ...cells, spread(ratios, 2)])
        note(rows.at(-1)!.join('  '))
      }
    }
  }
} finally {
  await Promise.all([theirs.close(), ours.close()])
}
say(`\nmedian (min-max) of ${options.rounds} rounds, batches of ${options.batch} examples\n`)
table(['', 'PyTorch ms', 'zo2 ms', 'zo2 faster by'], rows)
