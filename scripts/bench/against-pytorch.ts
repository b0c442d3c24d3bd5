// Benches (a) and (d): steps of MeZO and LOZO, or evaluation, by PyTorch and by the cpu device, on
// the same random checkpoint, token ids and number of threads. Both stay in memory and take turns,
// round by round. PyTorch gets the fastest kernels that its BLAS has for this processor.
//   bash scripts/bench/run.sh a [--sizes opt-125m,...] [--shapes 16x64,1x2048]
//     [--methods mezo-sgd,lozo] [--noise gaussian] [--labels all,option] [--rounds 5] [--steps 2] [--memory 1GiB]

import { checkpoint } from './checkpoint.ts'
import { flags, listed, median, note, record, say, spread, table } from './common.ts'
import { type RandomCase, startSystem, type System, type Timed } from './process.ts'
import { type Peers, startPeers } from './pytorch.ts'
import { OURS } from './rounds.ts'

const options = flags({
  python: 'python3',
  sizes: 'opt-125m,opt-350m,opt-1.3b',
  shapes: '16x64,1x2048',
  methods: 'mezo-sgd,lozo',
  noise: 'gaussian',
  labels: 'all,option',
  rounds: '5',
  steps: '2',
  memory: '1GiB',
  blas: 'auto',
})
/** Both forwards see other noise: losses near ln(vocabulary) agree to about eps. */
const LOSS_TOLERANCE = 0.02

function cases(model: string): RandomCase[] {
  return listed(options.shapes).flatMap((shape) =>
    listed(options.methods).flatMap((method) =>
      listed(options.labels).map((labels) => {
        const [batch, tokens] = shape.split('x').map(Number) as [number, number]
        return { model, batch, tokens, method, noise: options.noise, labels } as RandomCase
      }),
    ),
  )
}

/** Median ms of every round of both sides; every answer's loss is checked. */
async function measure(theirs: Peers, ours: System, of: RandomCase) {
  const settings = {
    device: 'cpu',
    blas: options.blas,
    memory: options.memory,
    resident: 'auto',
  } as const
  const steps = Number(options.steps)
  // Past the first steps: files in the page cache, MeZO's owed updates in their steady state.
  await theirs.time({ ...of, first: 0, steps: 1 })
  await ours.time({ ...of, ...settings, first: 0, steps: 3 })
  const times: { theirs: number[]; ours: number[] } = { theirs: [], ours: [] }
  const details = new Set<string>()
  for (let round = 1; round <= Number(options.rounds); round++) {
    const span = { first: round * steps, steps }
    const { ms, answers } = await theirs.time({ ...of, ...span })
    const own = await ours.time({ ...of, ...settings, ...span })
    for (const answer of answers) checkLosses(answer, own)
    times.theirs.push(ms)
    times.ours.push(median(own.ms))
    for (const { detail } of [...answers, own]) details.add(detail)
  }
  return { times, details: [...details] }
}

function checkLosses(theirs: Timed, ours: Timed) {
  if (Math.abs(theirs.loss - ours.loss) <= LOSS_TOLERANCE * Math.abs(theirs.loss)) return
  throw new Error(`the losses differ: PyTorch has ${theirs.loss}, zo2 ${ours.loss}`)
}

const rows: string[][] = []
for (const size of listed(options.sizes)) {
  const model = await checkpoint(size)
  const theirs = startPeers(options.python)
  const ours = startSystem('zo2', OURS)
  try {
    for (const of of cases(model)) {
      const { times, details } = await measure(theirs, ours, of)
      const ratios = times.theirs.map((ms, i) => ms / times.ours[i]!)
      const perSecond = (ms: number) => ((1000 * of.batch * of.tokens) / ms).toFixed(0)
      record('against-pytorch', {
        ...of,
        model: size,
        memory: options.memory,
        times,
        ratios,
        details,
      })
      if (rows.length === 0) note(details.join('; '))
      rows.push([
        `${size}, ${of.batch} x ${of.tokens}, ${of.method}, ${options.noise}, ${of.labels} labels`,
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
