// What a step of each method costs beside two plain forward passes of the same batch: OPT-125m's
// shape (random f16 weights, written once to out/), 16 x 64 tokens, loss on all of them. Rounds
// alternate, so that a drifting machine hits all alike; medians of ratios.
// ONLY=lozo,kronzo measures these alone.
//   npx tsx scripts/bench-methods.ts [rounds] [device] [batch] [tokens]

import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { parseConfig } from '../src/config/options.ts'
import { packBatch } from '../src/data/packing.ts'
import type { Device } from '../src/device/device.ts'
import { type Engine } from '../src/engine/engine.ts'
import { silent } from '../src/util/console.ts'
import { lossesOf } from '../src/engine/forward.ts'
import { openDevice, openEngine, UNTRAINED } from '../src/engine/open.ts'
import { loadModel } from '../src/engine/load.ts'
import { zoStep } from '../src/train/step.ts'
import { syntheticBatch } from '../test/helpers/runs.ts'
import { writeSyntheticOpt } from '../test/helpers/synthetic-opt.ts'

const [rounds = 9, kind = 'cpu', B = 16, T = 64] = process.argv.slice(2)
const DIR = new URL('../out/bench-opt-125m', import.meta.url).pathname
const SHAPE = { hidden: 768, ffn: 3072, vocab: 50272, layers: 12, heads: 12, positions: 2048 }
const METHODS: Record<string, Record<string, unknown>> = {
  'two forwards': {},
  'mezo-sgd': { method: 'mezo-sgd' },
  lozo: { method: 'lozo', rank: 2 },
  'lozo-m': { method: 'lozo-m', rank: 2 },
  'lozo, full history': { method: 'lozo', rank: 2, window: 1 },
  kronzo: { method: 'kronzo' },
  'lozo, 4 directions': { method: 'lozo', rank: 2, directions: 4 },
  'lora, rank 8': { method: 'mezo-sgd', loraRank: 8 },
}

if (!existsSync(DIR)) await writeSyntheticOpt(DIR, SHAPE, 'F16')

async function open(device: Device, options: Record<string, unknown>): Promise<Engine> {
  const config = parseConfig({ device: kind, memory: '2GiB', ...options })
  const loaded = await loadModel(DIR, config, silent)
  const state = { ...UNTRAINED, trains: true, scratchDir: tmpdir() }
  return (await openEngine(loaded, config, state, device)).engine
}

/** Median of the times of `rounds` steps, and of their ratio to the plain forwards of that round. */
const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!

const only = process.env['ONLY']?.split(',')
const times = new Map<string, number[]>()
const batch = packBatch(syntheticBatch(Number(B), Number(T), SHAPE.vocab, 1))
const device = await openDevice(
  parseConfig({ device: kind, ...(kind === 'webgpu' && { adapter: 'llvmpipe' }) }),
)
try {
  for (let round = -1; round < Number(rounds); round++) {
    for (const [name, options] of Object.entries(METHODS)) {
      if (only && name !== 'two forwards' && !only.includes(name)) continue
      const engine = await open(device, options)
      try {
        const step = async (n: number) => {
          if (name === 'two forwards') {
            for (let i = 0; i < 2; i++) await lossesOf(engine, batch, null)
            return
          }
          await zoStep(engine, {
            batches: [batch],
            step: n,
            lr: 1e-7,
            eps: 1e-3,
            weightDecay: 0,
            append: () => Promise.resolve(),
          })
        }
        // The first steps fill a window's history, and slots.
        const warm = name === 'lozo, full history' ? 7 : 1
        for (let n = 0; n < warm; n++) await step(n)
        const started = performance.now()
        await step(warm)
        if (round >= 0) times.set(name, [...(times.get(name) ?? []), performance.now() - started])
      } finally {
        await engine.close()
      }
    }
  }
} finally {
  await device.close()
}
const plain = times.get('two forwards')!
for (const [name, list] of times) {
  const ratios = list.map((ms, i) => ms / plain[i]!)
  process.stdout.write(
    `${name.padEnd(22)} ${median(list).toFixed(0).padStart(7)} ms   ${median(ratios).toFixed(3)} of two forwards (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})\n`,
  )
}
