// From the option table to commander and back: flags with their help, accepted spellings, and what every
// command gets besides its arguments.

import { Option, type Command } from 'commander'
import { readConfigFile } from '../config/file.ts'
import {
  defaultOf,
  OPTION_NAMES,
  OPTIONS,
  parseConfig,
  specOf,
  takes,
  type Config,
  type OptionName,
} from '../config/options.ts'
import { reasonAgainst } from '../config/refused.ts'
import { flag, flagName, type Command as CommandName } from '../config/spec.ts'
import { spellingsOf } from '../config/spellings.ts'
import { syntheticSource } from '../checkpoint/synthetic.ts'
import type { Reporter } from '../util/console.ts'
import { UserError } from '../util/errors.ts'

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

const usage = (text: string) => new UserError(text, { exitCode: 2 })

/** Options that a command has one value for. */
const isList = (name: OptionName) => specOf(name).value?.endsWith('...') === true

/**
 * `--learning_rate` and other known spellings -> the one commander knows.
 * @throws UserError (usage) for an option that is given twice
 */
export function normalise(argv: readonly string[]): string[] {
  const known = spellingsOf(OPTIONS)
  const seen = new Set<string>()
  return argv.map((argument) => {
    const match = /^--([A-Za-z][\w-]*)(=.*)?$/s.exec(argument)
    if (!match) return argument
    const spelled = match[1]!.replaceAll('_', '-')
    const name = known.get(spelled) as OptionName | undefined
    if (name === undefined) return `--${spelled}${match[2] ?? ''}`
    if (seen.has(name) && !isList(name)) {
      throw usage(`${flag(name)} is given twice; leave one out`)
    }
    seen.add(name)
    return flag(name) + (match[2] ?? '')
  })
}

/** Why commander does not know a flag, where the table does: null where it does not either. */
export function whyUnknown(spelled: string): string | null {
  const reason = reasonAgainst(spelled.replace(/^--/, ''))
  if (reason !== undefined) return `${spelled}: ${reason}; leave it out`
  const name = spellingsOf(OPTIONS).get(spelled.replace(/^--/, '')) as OptionName | undefined
  if (name === undefined) return null
  const owners = specOf(name).commands.filter((command) => /^[a-z]+$/.test(command))
  return `${spelled} is an option of zo2 ${owners.join(', ')}, not of this command; leave it out`
}

/** Adds the options that the table gives to a command, with their defaults as documentation. */
export function addOptions(command: Command, name: CommandName): Command {
  return addNamed(
    command,
    OPTION_NAMES.filter((option) => takes([name], option)),
    [name],
  )
}

/** Adds options by name, with the defaults that hold for the commands. */
export function addNamed(
  command: Command,
  names: readonly OptionName[],
  commands: readonly CommandName[],
): Command {
  for (const name of names) {
    const { aliases = [], value, help, group } = specOf(name)
    const usual = defaultOf(name, commands)
    const others = aliases.length > 0 ? ` (also ${aliases.map((a) => `--${a}`).join(', ')})` : ''
    // Shown, not set: parseConfig fills defaults in, so that a run's record knows what was given.
    const shown = usual !== undefined && value !== undefined && String(usual) !== ''
    const option = new Option(
      `--${flagName(name)}${value === undefined ? '' : ` <${value}>`}`,
      help + others + (shown ? ` (default: ${String(usual)})` : ''),
    )
    option.helpGroup(`Options (${group}):`)
    command.addOption(option)
  }
  return command
}

/** Of a command's flags those that are in the table, by their names on the command line. */
export const givenIn = (flags: Flags): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(flags)
      .filter(([key]) => Object.hasOwn(OPTIONS, key))
      .map(([key, value]) => [flag(key), value]),
  )

/** The configuration from a command's flags; flags that are not in the table are the command's own. */
export function configOf(flags: Flags, command: CommandName): Config {
  return parseConfig(givenIn(flags), command)
}

/**
 * Gives a command --config; its MODEL argument, if it has one, may then come from the file. Precedence:
 * defaults, then the file, then flags. What the file says to other commands alone is passed over, and said.
 */
export function takeConfigFile(
  command: Command,
  name: CommandName | null,
  { report }: { report: (flags: Flags) => Reporter },
): Command {
  const [argument] = command.registeredArguments
  const needsModel = argument?.required === true && argument.name() === 'model'
  if (needsModel) argument.required = false
  return command
    .option('--config <file>', "options from a .yaml, .toml or .json file, or a run's config.json")
    .hook('preAction', (_, action) => {
      const flags = action.opts<{ config?: string }>()
      const file = flags.config === undefined ? { values: {} } : readConfigFile(flags.config)
      const own = action.processedArgs[0] === undefined
      if (own) action.processedArgs[0] = file.model
      if (needsModel && action.processedArgs[0] === undefined) {
        throw usage("missing required argument 'model'")
      }
      // The model of a recorded run is that of its commit, wherever a branch has gone since.
      const pinned = own && file.commit !== undefined ? { revision: file.commit } : {}
      const passedOver: string[] = []
      for (const [option, value] of Object.entries({ ...file.values, ...pinned })) {
        if (name !== null && !takes([name], option as OptionName)) passedOver.push(flag(option))
        else if (action.getOptionValueSource(option) !== 'cli') {
          action.setOptionValueWithSource(option, value, 'config')
        }
      }
      if (passedOver.length > 0) {
        report(flags).line(
          `${flags.config}: passed over, being options of other commands: ${passedOver.join(' ')}`,
        )
      }
    })
}

/** The model that a command was given, as loadModel takes it. */
export function sourceOf(model: string | undefined, config: Config): string {
  const { synthetic: size, layers } = config
  if ((model === undefined) === (size === undefined)) {
    throw usage('expected either a model or --synthetic SIZE')
  }
  if (size === undefined) return model!
  return syntheticSource({ size, ...(layers !== undefined && { layers }) })
}

/** Keys of a summary as JSON users expect them: output_dir, device_peak_bytes. */
export function snakeCase(value: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value).map(([k, v]) => [k.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), v]),
  )
}
