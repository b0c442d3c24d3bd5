// The command line for tests: runs `zo2` as compiled.ts compiles it, handing back exit code and output. `cli` and `startCli` start a
// child process, for what only a process shows: signals, limits, users, native code that loses its
// device. `here` and `hereJson` run the same program in the test's own process, which saves
// 0.6 s a call: for everything else.

import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OPTION_NAMES, specOf } from '../../src/config/options.ts'
import { flag } from '../../src/config/spec.ts'
import { createReporter } from '../../src/util/console.ts'
import { compiled, ROOT } from './compiled.ts'

export { ROOT }
export const TINY = join(ROOT, 'test/fixtures/tiny-opt')
/** Reads text as TINY does and says nothing of sense, at a twentieth of the cost of a step. */
export const SMALL = join(ROOT, 'test/fixtures/small-opt')
export const LAYOUTS = join(ROOT, 'test/fixtures/layouts')
export const SHAKESPEARE = join(ROOT, 'examples/tinyshakespeare')
/** `zo2 plan` keeps what it measured: not in the user's own cache, taken on a busy machine. */
const CACHE = join(tmpdir(), 'zo2-test-cache')
export const SENTIMENT = join(ROOT, 'examples/sentiment')

/** What a command left. */
export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** What a finished process left. */
export interface Finished extends Ended {
  readonly signal: NodeJS.Signals | null
}

export interface Running {
  readonly child: ChildProcess
  /** Both streams so far. */
  readonly output: { stdout: string; stderr: string }
  readonly finished: Promise<Finished>
}

export interface CliOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** A shell line that runs before and around: `$0 "$@"` is the command. */
  readonly shell?: string
  /** User to run as; only root may say so. */
  readonly uid?: number
  /** The arguments as they are: else an option given twice, a default and its override, is the later one. */
  readonly asIs?: boolean
}

/** The arguments without the earlier ones of options that are given again later. */
function overridden(args: readonly string[]): string[] {
  const groups: string[][] = []
  for (const arg of args) {
    const name = /^--([a-z_-]+)(=.*)?$/s.exec(arg)?.[1]
    const last = groups.at(-1)
    if (name !== undefined || !last || last.length === 0) groups.push([arg])
    else last.push(arg)
  }
  const named = (group: readonly string[]) => group[0]!.split('=')[0]!.replaceAll('_', '-')
  const known = (group: readonly string[]) =>
    OPTION_NAMES.some((name) => flag(name) === named(group) && specOf(name).value !== undefined)
  return groups.flatMap((group, i) => {
    const again = groups.slice(i + 1).some((later) => named(later) === named(group))
    // Behind an option's own value stand arguments.
    return again && known(group) ? group.slice(group[0]!.includes('=') ? 1 : 2) : group
  })
}

/** Starts the command line; the caller awaits `finished` or kills the child. */
export function startCli(args: readonly string[], options: CliOptions = {}): Running {
  const command = [
    process.execPath,
    join(compiled(), 'src/cli/bin.js'),
    ...(options.asIs ? args : overridden(args)),
  ]
  const [file, ...rest] = options.shell ? ['bash', '-c', options.shell, ...command] : command
  const child = spawn(file!, rest, {
    cwd: options.cwd ?? ROOT,
    env: { XDG_CACHE_HOME: CACHE, ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.uid !== undefined && { uid: options.uid, gid: options.uid }),
  })
  const output = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text))
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, ...output }))
  })
  return { child, output, finished }
}

/** Runs the command line to its end. */
export function cli(args: readonly string[], options?: CliOptions): Promise<Finished> {
  return startCli(args, options).finished
}

/** Runs it, expects exit code 0, and parses the one JSON object on stdout. */
export async function cliJson(args: readonly string[], options?: CliOptions) {
  return jsonOf(args, await cli([...args, '--json'], options))
}

function jsonOf(args: readonly string[], { code, stdout, stderr }: Ended) {
  if (code !== 0) throw new Error(`zo2 ${args.join(' ')} ended with ${code}: ${stderr}`)
  return JSON.parse(stdout) as Record<string, unknown>
}

type HereOptions = Pick<CliOptions, 'env' | 'cwd' | 'asIs'>

/** Output, environment and working folder are the process's: one command at a time. */
let turn: Promise<unknown> = Promise.resolve()

/** Runs the command line to its end within this process. */
export function here(args: readonly string[], options: HereOptions = {}): Promise<Ended> {
  const ended = turn.then(() => runHere(options.asIs ? args : overridden(args), options))
  turn = ended.catch(() => {})
  return ended
}

/** Runs it within this process, expects exit code 0, and parses the one JSON object on stdout. */
export async function hereJson(args: readonly string[], options?: HereOptions) {
  return jsonOf(args, await here([...args, '--json'], options))
}

async function runHere(args: readonly string[], { env, cwd = ROOT }: HereOptions): Promise<Ended> {
  // Only where it is used: the command line is most of the program.
  const { runCommand } = await import('../../src/cli/main.ts')
  const output = { stdout: '', stderr: '' }
  const before = { env: { ...process.env }, cwd: process.cwd() }
  const writes = [process.stdout.write, process.stderr.write] as const
  const into = (name: 'stdout' | 'stderr') => (text: string | Uint8Array) => {
    output[name] += typeof text === 'string' ? text : Buffer.from(text).toString()
    return true
  }
  Object.assign(process.env, { XDG_CACHE_HOME: CACHE, ...before.env, ...env })
  process.chdir(cwd)
  process.stdout.write = into('stdout')
  process.stderr.write = into('stderr')
  try {
    const screen = createReporter(process.stderr)
    return { code: await runCommand(args, screen, new AbortController().signal), ...output }
  } finally {
    ;[process.stdout.write, process.stderr.write] = writes
    process.chdir(before.cwd)
    for (const name of Object.keys(process.env)) {
      if (before.env[name] === undefined) delete process.env[name]
    }
    Object.assign(process.env, before.env)
  }
}

/** Resolves once `text` stands on stderr; rejects if the process ends before. */
export async function seen({ output, finished, child }: Running, text: string): Promise<void> {
  while (!output.stderr.includes(text)) {
    if (child.exitCode !== null || child.signalCode !== null) {
      throw new Error(`ended before "${text}": ${(await finished).stderr}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** A new folder under the system's temporary one; the caller removes it. */
export const makeFolder = () => mkdtempSync(join(tmpdir(), 'zo2-test-'))
