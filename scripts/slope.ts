// 1,000 steps of the tiny OPT with folds and window turns, per device and method: process memory and
// device bytes by step, and the slope of the first by least squares over steps 200 to 1,000. One table;
// exit code 1 where 1,000 steps would add more than 8 MiB, or device bytes move at all.
//   npx tsx scripts/slope.ts [steps=1000]

import { fileURLToPath } from 'node:url'
import { fromPretrained, zoInit } from '../src/index.ts'

const STEPS = Number(process.argv[2] ?? 1000)
const FIRST = STEPS / 5
const BOUND_BYTES = 8 * 2 ** 20
const MODEL = fileURLToPath(new URL('../test/fixtures/tiny-opt', import.meta.url))
const MiB = (bytes: number) => (bytes / 2 ** 20).toFixed(1)

/** Bytes a step, of samples (step, bytes). */
function slopeOf(samples: readonly (readonly [number, number])[]): number {
  const mean = (i: 0 | 1) => samples.reduce((sum, s) => sum + s[i], 0) / samples.length
  const [x, y] = [mean(0), mean(1)]
  const covariance = samples.reduce((sum, s) => sum + (s[0] - x) * (s[1] - y), 0)
  return covariance / samples.reduce((sum, s) => sum + (s[0] - x) ** 2, 0)
}

let failed = false
process.stdout.write(
  '| device | method | memory at step 200, MiB | at the end | in 1,000 steps | device bytes, first and last step |\n| --- | --- | --- | --- | --- | --- |\n',
)
for (const on of [{ device: 'cpu' }, { adapter: 'llvmpipe' }] as const) {
  for (const own of [
    { method: 'mezo-sgd', replayWindow: 2 },
    { method: 'lozo', window: 10, foldWindows: 2 },
  ]) {
    const model = await fromPretrained(MODEL, { ...on, resident: 'none', slab: '256KiB' })
    try {
      const zo = await zoInit(model, { ...own, lr: 1e-4 })
      const deviceBytes: number[] = []
      const samples: [number, number][] = []
      for (let step = 1; step <= STEPS; step++) {
        const inputIds = [0, 1].map((b) =>
          Array.from({ length: 16 }, (_, t) => (step * 31 + b * 17 + t * 7) % 1000),
        )
        await zo.step({
          inputIds,
          attentionMask: inputIds.map((row) => row.map(() => 1)),
          labels: inputIds,
        })
        deviceBytes.push(model.device.ledger.total())
        if (step >= FIRST && step % 5 === 0) samples.push([step, process.memoryUsage.rss()])
      }
      const grown = 1000 * slopeOf(samples)
      const [first, last] = [deviceBytes[0]!, deviceBytes.at(-1)!]
      failed ||= grown > BOUND_BYTES || new Set(deviceBytes).size > 1
      process.stdout.write(
        `| ${model.device.info.kind} | ${own.method} | ${MiB(samples[0]![1])} | ${MiB(samples.at(-1)![1])} | ${MiB(grown)} | ${first}, ${last} |\n`,
      )
    } finally {
      await model.close()
    }
  }
}
process.exitCode = failed ? 1 : 0
