// Bench (c): steps with weights that stream from the page cache through a small budget, none of them
// resident, beside steps of the same model that is resident as a whole. Each has a process of its
// own, and they take turns. Losses must be the same bits: streaming changes nothing but the time.
//   bash scripts/bench/run.sh c [--sizes opt-125m,opt-1.3b] [--devices cpu,webgpu]
//     [--methods mezo-sgd,lozo] [--shape 16x64] [--budget 256MiB] [--rounds 5] [--steps 2]

import { checkpoint } from './checkpoint.ts'
import { flags, gib, listed, note, record, say, spread, table } from './common.ts'
import { inTurns, type Variant } from './rounds.ts'

const options = flags({
  sizes: 'opt-125m,opt-1.3b',
  devices: 'cpu,webgpu',
  adapter: 'llvmpipe',
  shape: '16x64',
  methods: 'mezo-sgd,lozo',
  budget: '256MiB',
  rounds: '5',
  steps: '2',
})
const [batch, tokens] = options.shape.split('x').map(Number) as [number, number]
const counts = { rounds: Number(options.rounds), steps: Number(options.steps) }

const rows: string[][] = []
for (const size of listed(options.sizes)) {
  const model = await checkpoint(size)
  for (const device of listed(options.devices) as Variant['device'][]) {
    for (const method of listed(options.methods) as Variant['method'][]) {
      const shared = {
        model,
        device,
        method,
        batch,
        tokens,
        labels: 'all' as const,
        ...(device === 'webgpu' && { adapter: options.adapter }),
      }
      const [streamed, resident] = await inTurns(
        [
          { ...shared, memory: options.budget, resident: 'none' },
          { ...shared, memory: '64GiB', resident: 'all' },
        ],
        counts,
      )
      if (streamed!.last.loss !== resident!.last.loss) {
        throw new Error(`the losses differ: ${streamed!.last.loss}, ${resident!.last.loss}`)
      }
      const ratios = streamed!.ms.map((ms, i) => ms / resident!.ms[i]!)
      record('streaming', { ...shared, model: size, streamed, resident, ratios })
      rows.push([
        `${size}, ${device}, ${method}`,
        spread(streamed!.ms),
        spread(resident!.ms),
        spread(ratios, 3),
        gib(streamed!.last.rss_peak_bytes),
        gib(resident!.last.rss_peak_bytes),
      ])
      note(rows.at(-1)!.join('  '))
    }
  }
}
say(`\n${options.shape} tokens; median (min-max) of ${options.rounds} rounds\n`)
table(
  [
    '',
    `${options.budget}, ms`,
    'resident, ms',
    'streamed / resident',
    'process peak',
    'resident, process peak',
  ],
  rows,
)
