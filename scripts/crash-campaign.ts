// kill -9 at n moments of a run's life, each followed by --resume, two runs at a time; every result
// is compared with that of a run nobody touched. One line per kill, exit code 1 on any difference.
//
//   npx tsx scripts/crash-campaign.ts [n=30] [seed=1]

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { makeFolder } from '../test/helpers/cli.ts'
import {
  differences,
  finish,
  killedRun,
  outcome,
  prepare,
  runArgs,
  seeded,
  twoAtATime,
} from '../test/helpers/crash.ts'

const [n, seed] = [Number(process.argv[2] ?? 30), Number(process.argv[3] ?? 1)]
const home = makeFolder()
let [kills, faults] = [0, 0]
try {
  prepare(home)
  await finish(runArgs(home, 'reference'))
  const reference = outcome(join(home, 'reference'))
  await twoAtATime(n, async (index) => {
    const made = await killedRun(home, { index, of: n }, seeded(seed * 1000 + index))
    const wrong = differences(reference, outcome(join(home, `run-${index}`)))
    rmSync(join(home, `run-${index}`), { recursive: true })
    kills += made.length
    if (wrong.length > 0) faults++
    const where = made.map(({ at, leftovers }) => [at, ...leftovers].join(' '))
    const verdict = wrong.length > 0 ? `differs: ${wrong.join('; ')}` : 'same'
    process.stdout.write(`${String(index + 1).padStart(3)}  ${verdict}  ${where.join(' | ')}\n`)
  })
  process.stdout.write(`${n} runs, ${kills} kills, ${faults} differ from the reference\n`)
} finally {
  rmSync(home, { recursive: true, force: true })
}
process.exitCode = faults > 0 ? 1 : 0
