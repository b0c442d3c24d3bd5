// kill -9 at n random instants of a run's life, spread evenly over training, evaluation, saving,
// folding and export; each is followed by --resume (every fourth time by another kill first), and
// what comes out is compared, file by file, with what a run makes that nobody touched. One line per
// kill, then a table of where they fell; exit code 1 on any difference or a phase hit too rarely.
//
//   npx tsx scripts/crash-campaign.ts [kills=100] [seed=1] [file for the report]

import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { finish, seeded, twoAtATime } from '../test/helpers/crash.ts'
import { cli, makeFolder } from '../test/helpers/cli.ts'
import { callsIn, watched } from '../test/helpers/file-calls.ts'
import { differences, outcome, type Outcome } from '../test/helpers/outcome.ts'
import { makeJobs, type Job } from './crash-campaign/jobs.ts'
import { killIn, type Kill } from './crash-campaign/kill.ts'
import { foldTilesOf, staysIn, TARGETS, type Stay, type Target } from './crash-campaign/phases.ts'

/** Kills that fall elsewhere (before the first step, after the end) count for nothing. */
const [wanted, seed] = [Number(process.argv[2] ?? 100), Number(process.argv[3] ?? 1)]
const reportPath = process.argv[4]
const LEAST = Math.floor(wanted / 10)
const home = makeFolder()
const lines: string[] = []
const say = (line: string) => {
  lines.push(line)
  process.stdout.write(`${line}\n`)
}

interface Reference {
  readonly job: Job
  readonly files: Outcome
  readonly stays: readonly Stay[]
}

const counts = new Map<string, number>()
const hits = (phase: string) => counts.get(phase) ?? 0
const counted = () => TARGETS.reduce((sum, target) => sum + hits(target), 0)
let faults = 0

/** What a job makes when nobody disturbs it. */
async function referenceOf(job: Job, i: number): Promise<Reference> {
  const [dir, log] = [join(home, `reference-${i}`), join(home, `reference-${i}.log`)]
  const { code, stderr } = await cli(job.args(dir), { env: watched(dir, log) })
  if (code !== 0) throw new Error(`${job.name} ended with ${code}: ${stderr}`)
  const calls = callsIn(dir, log)
  const rhythm = { ...job.rhythm, foldTiles: foldTilesOf(calls) }
  return { job: { ...job, rhythm }, files: outcome(dir), stays: staysIn(calls, rhythm) }
}

/** One run: killed, perhaps twice, then brought to its end and compared. */
async function life(number: number, { job, files, stays }: Reference, target: Target) {
  const random = seeded(seed * 10_000 + number)
  const dir = join(home, `run-${number}`)
  const kills: Kill[] = []
  const kill = async (what: Target, more: string[]) => {
    const made = await killIn(
      [...job.args(dir), ...more],
      dir,
      { rhythm: job.rhythm, stays, target: what },
      random,
    )
    kills.push(made)
    counts.set(made.phase, hits(made.phase) + 1)
  }
  await kill(target, [])
  const again = job.resumes ? ['--resume'] : []
  if (number % 4 === 3) {
    await kill(job.targets[Math.floor(random() * job.targets.length)]!, again)
  }
  await finish([...job.args(dir), ...again])
  const wrong = differences(files, outcome(dir))
  if (wrong.length > 0) faults++
  const where = kills.map(
    (k) => `${k.phase} ${k.done}${k.left.length > 0 ? ` (${k.left.join(' ')})` : ''}`,
  )
  const verdict = wrong.length > 0 ? `DIFFERS: ${wrong.join('; ')}` : 'same'
  say(`${String(number).padStart(3)}  ${job.name.padEnd(16)}  ${verdict}  ${where.join(' | ')}`)
  rmSync(dir, { recursive: true })
  rmSync(`${dir}.log`, { force: true })
}

/** Which run is killed where: targets in turns, towards the end the one that is farthest behind. */
function assignment(number: number, references: readonly Reference[]) {
  const behind = TARGETS.reduce((a, b) => (hits(b) < hits(a) ? b : a))
  const target = number < 0.7 * wanted ? TARGETS[number % TARGETS.length]! : behind
  const fitting = references.filter(({ job }) => job.targets.includes(target))
  return { target, reference: fitting[Math.floor(number / TARGETS.length) % fitting.length]! }
}

try {
  const jobs = await makeJobs(home)
  const references: Reference[] = []
  for (const [i, job] of jobs.entries()) references.push(await referenceOf(job, i))
  let runs = 0
  await twoAtATime(Infinity, async (number) => {
    if (counted() >= wanted) return false
    const { target, reference } = assignment(number, references)
    await life(number, reference, target)
    runs++
    return true
  })
  say('')
  for (const target of TARGETS) say(`${target.padEnd(10)} ${hits(target)} kills`)
  for (const other of ['loading', 'the end'])
    say(`${other.padEnd(10)} ${hits(other)} kills, not counted`)
  say(`${counted()} kills in ${runs} runs; ${faults} runs differ from the undisturbed ones`)
  if (reportPath) writeFileSync(reportPath, lines.join('\n') + '\n')
} finally {
  rmSync(home, { recursive: true, force: true })
}
process.exitCode = faults > 0 || TARGETS.some((target) => hits(target) < LEAST) ? 1 : 0
