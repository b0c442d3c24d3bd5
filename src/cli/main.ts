// The command line: flags -> configuration -> one call. Results go to stdout (one JSON object with
// --json), progress and errors to stderr. Exit code 0, 1 for a failed run, 2 for wrong usage,
// 130/143 after SIGINT/SIGTERM.

import { Command, CommanderError } from 'commander'
import { normalise, takeConfigFile, whyUnknown, type Context, type ContextOf } from './flags.ts'
import { UserError } from '../util/errors.ts'
import { quote } from '../util/untrusted.ts'
import { createReporter, silent, type Reporter } from '../util/console.ts'
import { VERSION } from '../util/version.ts'

interface CommonFlags {
  readonly json?: boolean
  readonly quiet?: boolean
  readonly disableTqdm?: boolean
  readonly debug?: boolean
}

type MakeCommand = (contextOf: ContextOf) => Command

/** Every command, in the order of the help; only the one that is called is read. */
const COMMANDS: Readonly<Record<string, () => Promise<MakeCommand>>> = {
  finetune: async () => (await import('./finetune.ts')).finetuneCommand,
  eval: async () => (await import('./eval.ts')).evalCommand,
  generate: async () => (await import('./generate.ts')).generateCommand,
  chat: async () => (await import('./chat.ts')).chatCommand,
  plan: async () => (await import('./plan.ts')).planCommand,
  bench: async () => (await import('./bench.ts')).benchCommand,
  prepare: async () => (await import('./prepare.ts')).prepareCommand,
  pretrain: async () => (await import('./pretrain.ts')).pretrainCommand,
  sample: async () => (await import('./sample.ts')).sampleCommand,
  inspect: async () => (await import('./inspect.ts')).inspectCommand,
  export: async () => (await import('./export.ts')).exportCommand,
  convert: async () => (await import('./convert.ts')).convertCommand,
  env: async () => (await import('./env.ts')).envCommand,
  report: async () => (await import('./report.ts')).reportCommand,
  push: async () => (await import('./push.ts')).pushCommand,
  config: async () => (await import('./config.ts')).configCommand,
}

/** The command that is called, or all of them, for help and for sentences about unknown ones. */
function commandsOf(argv: readonly string[]): Promise<MakeCommand[]> {
  const called = argv.find((arg) => !arg.startsWith('-')) ?? ''
  const loaders = Object.hasOwn(COMMANDS, called) ? [COMMANDS[called]!] : Object.values(COMMANDS)
  return Promise.all(loaders.map((load) => load()))
}

/** Those that take their options from a file too; config shows those of all. */
const FROM_FILES = ['finetune', 'eval', 'generate', 'plan', 'bench'] as const

/** The program of a command line. */
async function program(
  argv: readonly string[],
  screen: Reporter,
  stop: AbortSignal,
): Promise<Command> {
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
  for (const make of await commandsOf(argv)) {
    const command = make(contextOf)
    command.allowExcessArguments().hook('preAction', (_, action) => refuseSurplus(action))
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

/** @throws UserError (usage) naming what a command has no argument for; commander would only count */
function refuseSurplus(command: Command): void {
  const { args, registeredArguments: known } = command
  const surplus = args.slice(known.length).map((word) => quote(word))
  if (surplus.length === 0 || known.at(-1)?.variadic) return
  const expected = `${known.length} argument${known.length === 1 ? '' : 's'}`
  throw new UserError(
    `too many arguments for '${command.name()}', expected ${expected} and found ${surplus.join(', ')} beside: ` +
      `quote a value of several words, and give a switch none`,
    { exitCode: 2 },
  )
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

/** Runs one command line as a process of its own: signals and broken pipes are its; the exit code. */
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
    const code = await runCommand(argv, screen, stop.signal)
    return code === 0 ? signalled : code
  } finally {
    process.off('SIGINT', onSignal)
    process.off('SIGTERM', onSignal)
  }
}

/** Runs one command line within a process that goes on; the exit code, 0 for one that `stop` ended. */
export async function runCommand(
  argv: readonly string[],
  screen: Reporter,
  stop: AbortSignal,
): Promise<number> {
  try {
    const root = await program(argv, screen, stop)
    await root.parseAsync(normalise(argv), { from: 'user' })
    return 0
  } catch (error) {
    if (!stop.aborted || error !== stop.reason) {
      return report(error, screen, argv.includes('--debug'))
    }
    screen.line(`zo2: ${(error as UserError).message}`)
    return 0
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
