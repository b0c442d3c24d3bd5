// Benches (a) and (d): steps of MeZO and LOZO, or evaluation, by PyTorch and by the cpu device, on
// the same random checkpoint, token ids and number of threads. Both stay in memory and take turns,
// round by round. PyTorch gets the fastest kernels that its BLAS has for this processor.
//   bash scripts/bench/run.sh a [--sizes opt-125m,...] [--shapes 16x64,1x2048]
//     [--methods mezo-sgd,lozo] [--labels all,option] [--rounds 5] [--steps 2] [--memory 1GiB]

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { checkpoint } from './checkpoint.ts'
import { flags, listed, median, note, record, say, spread, table } from './common.ts'
import { type Case, startSystem, type System, type Timed } from './process.ts'
import { OURS } from './rounds.ts'

const options = flags({
  python: 'python3',
  sizes: 'opt-125m,opt-350m,opt-1.3b',
  shapes: '16x64,1x2048',
  methods: 'mezo-sgd,lozo',
  labels: 'all,option',
  rounds: '5',
  steps: '2',
  memory: '1GiB',
})
const PYTORCH = fileURLToPath(new URL('pytorch.py', import.meta.url))
/** Both forwards see other noise: losses near ln(vocabulary) agree to about eps. */
const LOSS_TOLERANCE = 0.02

/** The environment under which PyTorch multiplies fastest: an older OpenBLAS falls back to SSE
 * kernels on processors that it does not know. */
function fastestBlas(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('OPENBLAS_'))
  const plain = Object.fromEntries(kept)
  const cpu = readFileSync('/proc/cpuinfo', 'utf8')
  const known = Object.entries({ SkylakeX: 'avx512bw', Haswell: 'avx2' })
  const names = known.filter(([, flag]) => cpu.includes(flag)).map(([name]) => name)
  const tried = [plain, ...names.map((name) => ({ ...plain, OPENBLAS_CORETYPE: name }))]
  const speeds = tried.map((env) =>
    Number(execFileSync(options.python, [PYTORCH, '--gflops'], { env }).toString()),
  )
  const best = Math.max(...speeds)
  note(`PyTorch multiplies at ${best.toFixed(0)} GFLOP/s`)
  return tried[speeds.indexOf(best)]!
}

function cases(model: string): Case[] {
  return listed(options.shapes).flatMap((shape) =>
    listed(options.methods).flatMap((method) =>
      listed(options.labels).map((labels) => {
        const [batch, tokens] = shape.split('x').map(Number) as [number, number]
        return { model, batch, tokens, method, labels } as Case
      }),
    ),
  )
}

/** Median ms of every round of both sides; every answer's loss is checked. */
async function measure(theirs: System, ours: System, of: Case) {
  const settings = { device: 'cpu', memory: options.memory, resident: 'auto' } as const
  const steps = Number(options.steps)
  // Past the first steps: files in the page cache, MeZO's owed updates in their steady state.
  await theirs.time({ ...of, first: 0, steps: 1 })
  await ours.time({ ...of, ...settings, first: 0, steps: 3 })
  const rounds: [Timed, Timed][] = []
  for (let round = 1; round <= Number(options.rounds); round++) {
    const span = { first: round * steps, steps }
    const answers: [Timed, Timed] = [
      await theirs.time({ ...of, ...span }),
      await ours.time({ ...of, ...settings, ...span }),
    ]
    checkLosses(...answers)
    rounds.push(answers)
  }
  const times = {
    theirs: rounds.map(([{ ms }]) => median(ms)),
    ours: rounds.map(([, { ms }]) => median(ms)),
  }
  return { times, last: rounds.at(-1)! }
}

function checkLosses(theirs: Timed, ours: Timed) {
  if (Math.abs(theirs.loss - ours.loss) <= LOSS_TOLERANCE * Math.abs(theirs.loss)) return
  throw new Error(`the losses differ: PyTorch has ${theirs.loss}, zo2 ${ours.loss}`)
}

const rows: string[][] = []
const env = fastestBlas()
for (const size of listed(options.sizes)) {
  const model = await checkpoint(size)
  const theirs = startSystem('pytorch', [options.python, PYTORCH], env)
  const ours = startSystem('zo2', OURS)
  try {
    for (const of of cases(model)) {
      const { times, last } = await measure(theirs, ours, of)
      const ratios = times.theirs.map((ms, i) => ms / times.ours[i]!)
      const perSecond = (ms: number) => ((1000 * of.batch * of.tokens) / ms).toFixed(0)
      const detail = last.map((answer) => answer.detail)
      record('against-pytorch', {
        ...of,
        model: size,
        memory: options.memory,
        times,
        ratios,
        detail,
      })
      if (rows.length === 0) note(detail.join('; '))
      rows.push([
        `${size}, ${of.batch} x ${of.tokens}, ${of.method}, ${of.labels} labels`,
        ...[times.theirs, times.ours].map((ms) => spread(ms)),
        ...[times.theirs, times.ours].map((ms) => perSecond(median(ms))),
        spread(ratios, 2),
      ])
      note(rows.at(-1)!.join('  '))
    }
  } finally {
    await Promise.all([theirs.close(), ours.close()])
  }
}
say(`\nmedian (min-max) of ${options.rounds} rounds; zo2 with --memory ${options.memory}\n`)
table(['', 'PyTorch ms', 'zo2 ms', 'PyTorch tok/s', 'zo2 tok/s', 'zo2 faster by'], rows)
