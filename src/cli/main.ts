// The command line: flags -> configuration -> one call. Results go to stdout (one JSON object with
// --json), progress and errors to stderr. Exit code 0, 1 for a failed run, 2 for wrong usage,
// 130/143 after SIGINT/SIGTERM.

import { Command, CommanderError } from 'commander'
import { benchCommand } from './bench.ts'
import { configCommand } from './config.ts'
import { convertCommand } from './convert.ts'
import { envCommand } from './env.ts'
import { evalCommand } from './eval.ts'
import { exportCommand } from './export.ts'
import { finetuneCommand } from './finetune.ts'
import { normalise, takeConfigFile, whyUnknown, type Context, type ContextOf } from './flags.ts'
import { generateCommand } from './generate.ts'
import { inspectCommand } from './inspect.ts'
import { planCommand } from './plan.ts'
import { prepareCommand } from './prepare.ts'
import { pretrainCommand } from './pretrain.ts'
import { pushCommand } from './push.ts'
import { reportCommand } from './report.ts'
import { sampleCommand } from './sample.ts'
import { UserError } from '../util/errors.ts'
import { createReporter, silent, type Reporter } from '../util/console.ts'
import { VERSION } from '../util/version.ts'

interface CommonFlags {
  readonly json?: boolean
  readonly quiet?: boolean
  readonly disableTqdm?: boolean
  readonly debug?: boolean
}

/** Every command, in the order of the help. */
const COMMANDS: readonly ((contextOf: ContextOf) => Command)[] = [
  finetuneCommand,
  evalCommand,
  generateCommand,
  planCommand,
  benchCommand,
  prepareCommand,
  pretrainCommand,
  sampleCommand,
  inspectCommand,
  exportCommand,
  convertCommand,
  envCommand,
  reportCommand,
  pushCommand,
  configCommand,
]

/** Those that take their options from a file too; config shows those of all. */
const FROM_FILES = ['finetune', 'eval', 'generate', 'plan', 'bench'] as const

/** The program; `context` is made once the flags are known. */
export function program(screen: Reporter, stop: AbortSignal): Command {
  const root = new Command('zo2')
    .description('Zeroth-order (forward-only) fine-tuning of models larger than the device')
    .version(VERSION)
    .exitOverride()
    .configureOutput({ outputError })
    .configureHelp({ helpWidth: 100 })
  const contextOf = (flags: CommonFlags): Context => ({
    report: flags.quiet || flags.disableTqdm ? silent : screen,
    result: (value, lines) => {
      screen.clear()
      const text = flags.json ? JSON.stringify(value) : lines().join('\n')
      if (text) process.stdout.write(text + '\n')
    },
    stop,
  })
  const reportOf = { report: (flags: CommonFlags) => contextOf(flags).report }
  for (const make of COMMANDS) {
    const command = make(contextOf)
    const fromFile = FROM_FILES.find((name) => name === command.name())
    if (fromFile) takeConfigFile(command, fromFile, reportOf)
    if (command.name() === 'config') takeConfigFile(command, null, reportOf)
    command
      .option('--json', 'print one JSON object on stdout')
      .option('--quiet', 'no progress on stderr')
      .option('--debug', 'stack traces for errors')
      .exitOverride()
      .configureOutput({ outputError })
    root.addCommand(command)
  }
  return root
}

/** Commander's own complaints, such as an unknown option, in the form of all others. */
function outputError(text: string, write: (text: string) => void): void {
  const unknown = /unknown option '(--[\w-]+)/.exec(text)?.[1]
  const known = unknown === undefined ? null : whyUnknown(unknown)
  const lines = text
    .replace(/^error: /, '')
    .trim()
    .replace(/\.$/, '')
  const sentence = known ?? lines.replace(/\s*\n/g, ' ').replace('. ', ', ')
  write(`zo2: ${sentence}\n`)
}

/** Runs one command line; returns the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  const screen = createReporter(process.stderr)
  const stop = new AbortController()
  let signalled = 0
  const onSignal = (signal: NodeJS.Signals) => {
    const code = signal === 'SIGINT' ? 130 : 143
    if (signalled > 0) process.exit(code)
    signalled = code
    screen.line(`${signal}: finishing what is under way; once more stops at once`)
    stop.abort(new UserError(`stopped by ${signal}`))
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  // Progress that nobody reads any more is no reason to stop.
  process.stderr.on('error', () => {})
  process.stdout.on('error', ({ code }: NodeJS.ErrnoException) => {
    if (code === 'EPIPE') process.exit(0) // `zo2 inspect MODEL | head`: a reader that has enough
    screen.line(`zo2: the result cannot be written to stdout (${code}); free some disk space there`)
    process.exit(1)
  })
  try {
    await program(screen, stop.signal).parseAsync(normalise(argv), { from: 'user' })
    return signalled
  } catch (error) {
    if (signalled > 0 && error === stop.signal.reason) {
      screen.line(`zo2: ${(error as UserError).message}`)
      return signalled
    }
    return report(error, screen, argv.includes('--debug'))
  } finally {
    process.off('SIGINT', onSignal)
    process.off('SIGTERM', onSignal)
  }
}

function report(error: unknown, screen: Reporter, debug: boolean): number {
  // Commander has printed its own message; help and version are no errors.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const known = error instanceof UserError
  const text = error instanceof Error ? error.message : String(error)
  screen.line(`zo2: ${known ? '' : 'internal error: '}${text}`)
  if (debug && error instanceof Error) screen.line(error.stack ?? '')
  else if (!known) screen.line('run again with --debug for the stack trace')
  return known ? error.exitCode : 1
}
