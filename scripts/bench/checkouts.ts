// Two checkouts of this project side by side, so that a change's effect on speed is measured in one run: the cases of
// benches a, c, d and e by each checkout's own steps.ts, in turns, round by round. The other one is installed and
// built (`npm ci && npm run build` there). Losses must be close, not equal: sums may be made in another order.
//   npx tsx scripts/bench/checkouts.ts --before FOLDER [--rounds 5] [--steps 2] [--only WORDS] [--memory 1GiB]
//     [--before-blas NAME] [--blas NAME], each if it has --blas; --before . compares two of them

import { join, resolve } from 'node:path'
import { checkpoint } from './checkpoint.ts'
import { flags, median, note, record, say, spread, table } from './common.ts'
import { type RandomCase, type Settings, startSystem, type System } from './process.ts'
import { OURS } from './rounds.ts'

const options = flags({
  before: '',
  rounds: '5',
  steps: '2',
  only: '',
  memory: '1GiB',
  blas: '',
  'before-blas': '',
  budget: '256MiB',
  adapter: 'llvmpipe',
})
const LOSS_TOLERANCE = 1e-4
if (options.before === '') {
  note('name the other checkout: --before FOLDER')
  process.exit(2)
}

const model = await checkpoint('opt-125m')
const before = resolve(options.before)
const theirs = [process.execPath, '--import', 'tsx', join(before, 'scripts', 'bench', 'steps.ts')]

const CPU: Settings = { device: 'cpu', memory: options.memory, resident: 'auto' }
const GPU: Settings = {
  device: 'webgpu',
  adapter: options.adapter,
  memory: options.memory,
  resident: 'auto',
}
const streamed = (settings: Settings): Settings => {
  return { ...settings, memory: options.budget, resident: 'none' }
}
type Shape = Pick<RandomCase, 'batch' | 'tokens' | 'labels' | 'method'>
const shape = (
  method: Shape['method'],
  batch: number,
  tokens: number,
  labels: Shape['labels'] = 'all',
) => {
  return { method, batch, tokens, labels }
}
const shapes = (...args: [number, number, Shape['labels']?]) =>
  (['mezo-sgd', 'lozo'] as const).map((method) => shape(method, ...args))

/** The cases by their benches. */
const cases: readonly (readonly [string, Shape, Settings])[] = [
  ...[...shapes(16, 64), ...shapes(16, 64, 'option'), ...shapes(1, 2048)].map(
    (of) => ['a', of, CPU] as const,
  ),
  ...shapes(16, 64).map((of) => ['c', of, streamed(CPU)] as const),
  ...shapes(1, 64).map((of) => ['c', of, streamed(GPU)] as const),
  ...[shape('eval', 16, 64), shape('eval', 1, 2048)].map((of) => ['d', of, CPU] as const),
  ...shapes(1, 4).map((of) => ['e', of, CPU] as const),
]

const timed = async (system: System, of: RandomCase & Settings, blas: string, round: number) => {
  const own = blas === '' || of.device !== 'cpu' ? {} : { blas }
  const { ms, loss } = await system.time({ ...of, ...own, first: round * steps, steps })
  return { ms: median(ms), loss }
}

/** Medians of every round, before and now, after a round that warms both up. */
async function measure(systems: readonly [System, System], of: RandomCase & Settings) {
  const times: [number[], number[]] = [[], []]
  for (let round = 0; round <= Number(options.rounds); round++) {
    // Who begins takes turns as well.
    const order = round % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)
    const losses: number[] = []
    for (const i of order) {
      const { ms, loss } = await timed(
        systems[i],
        of,
        [options['before-blas'], options.blas][i]!,
        round,
      )
      losses.push(loss)
      if (round > 0) times[i].push(ms)
    }
    const [a, b] = losses as [number, number]
    if (Math.abs(a - b) > LOSS_TOLERANCE * Math.abs(a)) {
      throw new Error(`the losses differ: ${a} and ${b}`)
    }
  }
  return times
}

const steps = Number(options.steps)
const rows: string[][] = []
const systems = [startSystem('before', theirs), startSystem('now', OURS)] as const
try {
  for (const [bench, of, settings] of cases) {
    const where = `${settings.device}${settings.resident === 'none' ? ', streamed' : ''}`
    const name = `${bench}: ${of.method}, ${of.batch} x ${of.tokens}, ${of.labels} labels, ${where}`
    if (!options.only.split(' ').every((word) => name.includes(word))) continue
    const [old, now] = await measure(systems, { model, ...of, ...settings })
    const ratios = old.map((ms, i) => ms / now[i]!)
    record('checkouts', { name, before, old, now, ratios })
    rows.push([name, spread(old), spread(now), spread(ratios, 2)])
    note(rows.at(-1)!.join('  '))
  }
} finally {
  await Promise.all(systems.map((system) => system.close()))
}
say(`\nmedian (min-max) of ${options.rounds} rounds of ${steps} steps\n`)
table(['', 'before, ms', 'now, ms', 'faster by'], rows)
