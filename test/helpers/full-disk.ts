// A disk that is full from the n-th write of a command on: what the command must have said and left
// then, and that it goes on once there is room. For full-disk.test.ts (some n) and
// scripts/full-disk.ts (every n, and file systems of every size).

import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { cli, type Finished } from './cli.ts'
import { callsIn, watched, type Call } from './file-calls.ts'
import { differences, halfWritten, outcome, type Outcome } from './outcome.ts'

/** A command that writes below `dir`. */
export interface Command {
  readonly name: string
  readonly args: (dir: string) => string[]
  /** It goes on with --resume; any other is started again as it was. */
  readonly resumes: boolean
  /** Makes what the command needs in `dir`. */
  readonly before?: (dir: string) => Promise<void>
}

/** What a command does when there is room. */
export interface Undisturbed {
  readonly command: Command
  readonly files: Outcome
  /** Its writes in their order. */
  readonly writes: readonly Call[]
}

export interface Failure {
  /** The first write that failed; null if the command ended before. */
  readonly write: Call | null
  readonly sentence: string
  /** What should not be; empty if all is well. */
  readonly problems: readonly string[]
}

export async function undisturbed(command: Command, home: string): Promise<Undisturbed> {
  const dir = join(home, 'room')
  await command.before?.(dir)
  const { code, stderr } = await cli(command.args(dir), { env: watched(dir, `${dir}.log`) })
  if (code !== 0) throw new Error(`${command.name} ended with ${code}: ${stderr}`)
  const writes = callsIn(dir, `${dir}.log`).filter(({ what }) => !what.startsWith('fold'))
  const files = outcome(dir)
  for (const path of [dir, `${dir}.log`]) rmSync(path, { recursive: true })
  return { command, files, writes }
}

/** Lets every write from the n-th on fail (from 1), then makes room and starts the command again. */
export async function fullFrom(n: number, room: Undisturbed, home: string): Promise<Failure> {
  const { command, files } = room
  const dir = join(home, `full-${n}`)
  await command.before?.(dir)
  try {
    const ended = await cli(command.args(dir), { env: watched(dir, `${dir}.log`, n) })
    const write = callsIn(dir, `${dir}.log`).find(({ failed }) => failed) ?? null
    const problems = write ? problemsOf(ended, dir, files) : []
    problems.push(...(await goesOn(command, dir, files)))
    return { write, sentence: lastLine(ended), problems }
  } finally {
    for (const path of [dir, `${dir}.log`]) rmSync(path, { recursive: true, force: true })
  }
}

/** What is wrong with how a command ended on a full disk, and with what it left. */
export function problemsOf(ended: Finished, dir: string, files: Outcome): string[] {
  const problems: string[] = []
  const sentence = lastLine(ended)
  const bad = (found: boolean, text: string) => found && problems.push(`${text}: ${sentence}`)
  bad(ended.code !== 1, `exit code ${ended.code}`)
  bad(!sentence.startsWith('zo2: ') || sentence.includes('internal error'), 'no sentence')
  bad(!sentence.includes(dir), `${dir} is not named`)
  bad(!/\bfree (some|space)\b/.test(sentence), 'nothing to do is named')
  bad((ended.stderr.match(/^zo2: /gm) ?? []).length !== 1, 'more than one sentence')
  if (!existsSync(dir)) return problems
  const names = readdirSync(dir, { recursive: true, encoding: 'utf8' })
  const left = names.filter((name) => /\.tmp$|run\.lock|\.zo2-overlay/.test(name))
  if (left.length > 0) problems.push(`left behind: ${left.join(' ')}`)
  const half = halfWritten(dir, files)
  if (half.length > 0) problems.push(`half-written: ${half.join(' ')}`)
  const path = join(dir, 'journal.jsonl')
  const journal = existsSync(path) ? readFileSync(path, 'utf8') : ''
  if (!files.get('journal.jsonl')?.toString().startsWith(journal) && journal !== '') {
    problems.push('another journal')
  }
  return problems
}

/** What is wrong when the command goes on with room. */
export async function goesOn({ args, resumes }: Command, dir: string, files: Outcome) {
  const again = await cli([...args(dir), ...(resumes ? ['--resume'] : [])])
  if (again.code !== 0) return [`does not go on: ${lastLine(again)}`]
  return differences(files, outcome(dir)).map((path) => `then differs: ${path}`)
}

const lastLine = ({ stderr }: Finished) => stderr.trimEnd().split('\n').at(-1) ?? ''
