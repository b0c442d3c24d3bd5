// One kill -9: waits until the run is in a phase for the k-th time, and a random part of that stay
// longer. Where it really fell is known from the last call that the run made.

import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { startCli } from '../../test/helpers/cli.ts'
import { callsIn, parseCalls, watched } from '../../test/helpers/file-calls.ts'
import { leftoversIn } from './jobs.ts'
import { trackPhase, type Phase, type Rhythm, type Stay, type Target } from './phases.ts'

export interface Kill {
  readonly phase: Phase
  /** Steps in the journal. */
  readonly done: number
  /** What is half-written. */
  readonly left: readonly string[]
}

export interface Aim {
  readonly rhythm: Rhythm
  /** Of an undisturbed run. */
  readonly stays: readonly Stay[]
  readonly target: Target
}

/** Starts the command and kills it. `random` gives numbers in [0, 1). */
export async function killIn(
  args: readonly string[],
  dir: string,
  { rhythm, stays, target }: Aim,
  random: () => number,
): Promise<Kill> {
  const own = stays.filter(({ phase }) => phase === target)
  const kth = Math.floor(random() * own.length)
  const delayMs = random() * own[kth]!.ms
  const log = `${dir}.log`
  const start = callsIn(dir, log).length
  const done = stepsIn(dir)
  const running = startCli(args, { env: watched(dir, log) })
  await entered(running.child, log, start, { dir, rhythm, done, target, kth })
  await new Promise((resolve) => setTimeout(resolve, delayMs))
  running.child.kill('SIGKILL')
  const { signal } = await running.finished
  const tracker = trackPhase(rhythm, done)
  for (const call of callsIn(dir, log).slice(start)) tracker.see(call)
  const phase = signal === null ? 'the end' : tracker.phase
  return { phase, done: stepsIn(dir), left: leftoversIn(dir) }
}

interface Goal {
  readonly dir: string
  readonly rhythm: Rhythm
  readonly done: number
  readonly target: Target
  readonly kth: number
}

/** Resolves when the target is entered for the k-th time, or the run is over. */
async function entered(
  child: { readonly exitCode: number | null },
  log: string,
  start: number,
  { dir, rhythm, done, target, kth }: Goal,
): Promise<void> {
  const tracker = trackPhase(rhythm, done)
  const tail = tailOf(log)
  let [seen, entries] = [0, 0]
  try {
    while (child.exitCode === null) {
      for (const call of parseCalls(dir, tail.more())) {
        if (seen++ < start) continue
        const before = tracker.phase
        tracker.see(call)
        if (tracker.phase === target && before !== target && entries++ === kth) return
      }
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  } finally {
    tail.close()
  }
}

/** The whole lines that have come to a file since the last call. */
function tailOf(path: string) {
  const buffer = Buffer.alloc(2 ** 16)
  let [fd, text] = [-1, '']
  return {
    more() {
      if (fd < 0 && !existsSync(path)) return ''
      if (fd < 0) fd = openSync(path, 'r')
      for (let n; (n = readSync(fd, buffer)) > 0;) text += buffer.toString('latin1', 0, n)
      const end = text.lastIndexOf('\n') + 1
      const lines = text.slice(0, end)
      text = text.slice(end)
      return lines
    },
    close() {
      if (fd >= 0) closeSync(fd)
    },
  }
}

function stepsIn(dir: string): number {
  const path = join(dir, 'journal.jsonl')
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0
}
