// From the option table to commander and back: flags with their help, accepted spellings, and what
// every command gets besides its arguments.

import { Option, type Command } from 'commander'
import type { z } from 'zod'
import { OPTIONS, parseConfig, type Config, type OptionName } from '../config/options.ts'
import type { OptionSpec } from '../config/values.ts'
import { UserError } from '../util/errors.ts'
import { flagName, parseValue } from '../config/values.ts'
import type { Reporter } from '../util/console.ts'

/** What every command gets besides its arguments. */
export interface Context {
  readonly report: Reporter
  /** Prints the result: the object itself with --json, else the lines. */
  readonly result: (value: object, lines: () => readonly string[]) => void
  /** Aborted by SIGINT or SIGTERM. */
  readonly stop: AbortSignal
}

export type Flags = Readonly<Record<string, unknown>>
export type ContextOf = (flags: Flags) => Context

/** `--learning_rate` and other known spellings -> the one commander knows. */
export function normalise(argv: readonly string[]): string[] {
  const canonical = new Map<string, string>()
  for (const [name, spec] of Object.entries(OPTIONS) as [string, OptionSpec][]) {
    for (const alias of spec.aliases ?? []) canonical.set(`--${alias}`, `--${flagName(name)}`)
  }
  return argv.map((argument) => {
    const match = /^(--[A-Za-z][\w-]*)(=.*)?$/s.exec(argument)
    if (!match) return argument
    const flag = match[1]!.replaceAll('_', '-')
    return (canonical.get(flag) ?? flag) + (match[2] ?? '')
  })
}

/** Adds options of the table to a command, with their defaults as documentation. */
export function addOptions(command: Command, names: readonly OptionName[]): Command {
  for (const name of names) {
    const spec: OptionSpec = OPTIONS[name]
    const aliases = spec.aliases ? ` (also ${spec.aliases.map((a) => `--${a}`).join(', ')})` : ''
    const flag = `--${flagName(name)}${spec.value === undefined ? '' : ` <${spec.value}>`}`
    const option = new Option(flag, spec.help + aliases)
    option.helpGroup(`Options (${spec.topic}):`)
    // Shown, not set: parseConfig fills defaults in, so that a run's record knows what was given.
    if (spec.default !== undefined && spec.value !== undefined) {
      option.description += ` (default: ${String(spec.default)})`
    }
    command.addOption(option)
  }
  return command
}

/** The configuration from a command's flags; `own` are flags that are not in the option table. */
export function configOf(flags: Flags, own: readonly string[] = []): Config {
  const skip = new Set(['json', 'quiet', 'debug', 'config', ...own])
  return parseConfig(Object.fromEntries(Object.entries(flags).filter(([key]) => !skip.has(key))))
}

/** An option that only one command has: checked as those of the table are, with its default. */
export function ownFlag<T>(flags: Flags, flag: string, schema: z.ZodType<T>, fallback: T): T {
  const key = flag.replace(/-([a-z])/g, (_, c: string) => c.toUpperCase())
  return flags[key] === undefined ? fallback : (parseValue(`--${flag}`, schema, flags[key]) as T)
}

/** An option that this command cannot do without. */
export function needed(value: string | undefined, flag: string): string {
  if (value === undefined) throw new UserError(`${flag} is required`, { exitCode: 2 })
  return value
}
