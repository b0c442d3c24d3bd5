// The command line: flags -> configuration -> one call. Results go to stdout (one JSON object with
// --json), progress and errors to stderr. Exit code 0, 1 for a failed run, 2 for wrong usage,
// 130/143 after SIGINT/SIGTERM.

import { Command, CommanderError } from 'commander'
import { checkpointCommands } from './checkpoint.ts'
import { configCommand, takeConfigFile } from './config.ts'
import { planCommands } from './plan.ts'
import { pretrainCommands } from './pretrain.ts'
import { pushCommand } from './push.ts'
import { runCommands } from './finetune.ts'
import { reportCommand } from './report.ts'
import { normalise, type Context } from './flags.ts'
import { UserError } from '../util/errors.ts'
import { createReporter, silent, type Reporter } from '../util/console.ts'
import { VERSION } from '../util/version.ts'

interface CommonFlags {
  readonly json?: boolean
  readonly quiet?: boolean
  readonly debug?: boolean
}

/** The program; `context` is made once the flags are known. */
function program(screen: Reporter, stop: AbortSignal): Command {
  const root = new Command('zo2')
    .description(
      'Zeroth-order (forward-only) fine-tuning of OPT checkpoints larger than the device',
    )
    .version(VERSION)
    .exitOverride()
    .configureOutput({ outputError })
    .configureHelp({ helpWidth: 100 })
  const contextOf = (flags: CommonFlags): Context => ({
    report: flags.quiet ? silent : screen,
    result: (value, lines) => {
      screen.clear()
      const text = flags.json ? JSON.stringify(value) : lines().join('\n')
      if (text) process.stdout.write(text + '\n')
    },
    stop,
  })
  const commands = [
    ...[...runCommands(contextOf), ...planCommands(contextOf)].map(takeConfigFile),
    ...pretrainCommands(contextOf),
    ...checkpointCommands(contextOf),
    reportCommand(contextOf),
    pushCommand(contextOf),
    configCommand(contextOf),
  ]
  for (const command of commands) {
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
  const lines = text
    .replace(/^error: /, '')
    .trim()
    .replace(/\.$/, '')
  const sentence = lines.replace(/\s*\n/g, ' ').replace('. ', ', ')
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
  // `zo2 inspect MODEL | head`: a reader that has enough is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    process.exit(0)
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
