// Kill -9 and resume: one tiny run, a way to kill it at a chosen moment of its life, and what must
// be the same afterwards. Used by crash.test.ts (a few kills) and scripts/crash-campaign.ts (many).

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { here, SHAKESPEARE, SMALL, startCli, type Running } from './cli.ts'

export { differences, outcome, type Outcome } from './outcome.ts'

const STEPS = 24

/** What stands on stderr as the run goes on: its life from start-up to the end, in order. */
const WAYPOINTS = [
  ['', 'start-up'],
  ['zo2 0', 'loading'],
  ['data ', 'loading'],
  ['device cpu', 'loading'],
  ['plan: ', 'evaluation'],
  ...steps(1, 8, 'training'),
  [`saved`, 'training'],
  ...steps(9, 12, 'training'),
  ['eval step 12', 'training'],
  ...steps(13, 16, 'training'),
  ['checkpoint-16', 'training'],
  ...steps(17, 24, 'training'),
  ['checkpoint-24', 'evaluation'],
  ['eval step 24', 'export'],
  ['wrote ', 'the end'],
] as [text: string, phase: string][]

function steps(from: number, to: number, phase: string): string[][] {
  return Array.from({ length: to - from + 1 }, (_, i) => [
    `step ${String(from + i).padStart(2)}/${STEPS}`,
    // What follows these lines: a checkpoint is being written, or an evaluation made.
    (from + i) % 8 === 0 ? 'checkpoint' : from + i === 12 ? 'evaluation' : phase,
  ])
}

export interface Kill {
  /** Where the run was, and what it left half-written. */
  readonly at: string
  readonly leftovers: readonly string[]
}

/** Writes the training text; all runs in `home` use it. */
export function prepare(home: string): void {
  const text = readFileSync(join(SHAKESPEARE, 'train.txt'), 'utf8').slice(0, 6000)
  writeFileSync(join(home, 'train.txt'), text)
}

/** Folds, checkpoints, evaluations and, for odd variants, an overlay in a scratch file. */
export function runArgs(
  home: string,
  name: string,
  variant = 0,
  method: readonly string[] = ['--replay-window', '3'],
  model = SMALL,
): string[] {
  const data = join(home, 'train.txt')
  return [
    ...['finetune', model, '--device', 'cpu', '--threads', '1', '--train', data],
    ...['--eval-file', data, '--eval-samples', '4', '--eval-steps', '12', '--logging-steps', '1'],
    ...['--steps', String(STEPS), '--batch-size', '2', '--max-length', '16', '--lr', '1e-4'],
    ...method,
    ...['--save-steps', '8', '--output-dir', join(home, name)],
    ...(variant % 2 === 1 ? ['--ram', '1B'] : []),
  ]
}

/** Runs without interruption, in this process. */
export async function finish(args: readonly string[]): Promise<void> {
  const { code, stderr } = await here(args)
  if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}: ${stderr}`)
}

/**
 * Starts the run, kills it in part `at` of [0, 1) of its life and `delayMs` further, as kill -9 does.
 */
export async function startAndKill(args: readonly string[], at: number, delayMs: number) {
  const running = startCli(args)
  const [text, phase] = WAYPOINTS[Math.floor(at * WAYPOINTS.length)]!
  await reached(running, text)
  await new Promise((resolve) => setTimeout(resolve, delayMs))
  running.child.kill('SIGKILL')
  const { signal } = await running.finished
  const dir = args[args.indexOf('--output-dir') + 1]!
  const leftovers = listOf(dir).filter((name) => name.startsWith('.'))
  return { at: signal === null ? 'after its end' : phase, leftovers } satisfies Kill
}

/** A resumed run may be past the text already: then its end will do. */
async function reached({ output, child }: Running, text: string): Promise<void> {
  while (!output.stderr.includes(text) && child.exitCode === null) {
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

function listOf(dir: string): string[] {
  try {
    return readdirSync(dir).sort()
  } catch {
    return [] // killed before it made the folder
  }
}

/** Runs `jobs` two at a time, in order; one that gives false is the last of its lane. */
export async function twoAtATime(
  count: number,
  job: (i: number) => Promise<boolean | void>,
): Promise<void> {
  let next = 0
  const lane = async () => {
    while (next < count) if ((await job(next++)) === false) return
  }
  await Promise.all([lane(), lane()])
}

/**
 * One run `name` in `home`, killed once or (every third) twice and resumed to its end.
 * `random` gives numbers in [0, 1). Returns where it was killed.
 */
export async function killedRun(
  home: string,
  { index, of }: { index: number; of: number },
  random: () => number,
): Promise<Kill[]> {
  const args = runArgs(home, `run-${index}`, index)
  const kills = [await startAndKill(args, (index + random()) / of, 40 * random())]
  if (index % 3 === 0) {
    kills.push(await startAndKill([...args, '--resume'], random(), 40 * random()))
  }
  await finish([...args, '--resume'])
  return kills
}

/** mulberry32: seeded numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
