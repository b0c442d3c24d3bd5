// Every option once, joined from the tables in options/: meaning, unit, default, range, spellings, who
// takes it and what it goes with. The command line, --help, configuration files, the library's
// arguments and their types, a run's record and its model card are made from it; nothing else names a
// default.

import type { z } from 'zod'
import { UserError } from '../util/errors.ts'
import { checkTogether } from './check.ts'
import { DATA_OPTIONS } from './options/data.ts'
import { DEVICE_OPTIONS } from './options/device.ts'
import { EVALUATION_OPTIONS } from './options/evaluation.ts'
import { GENERATION_OPTIONS } from './options/generation.ts'
import { METHOD_OPTIONS } from './options/method.ts'
import { MODEL_OPTIONS } from './options/model.ts'
import { OUTPUT_OPTIONS } from './options/output.ts'
import { PRETRAIN_OPTIONS } from './options/pretrain.ts'
import { SCHEDULE_OPTIONS } from './options/schedule.ts'
import { flag, type Command, type OptionSpec, type Values } from './spec.ts'
import { readSpellings, type Given } from './spellings.ts'
import { TASK_OPTIONS } from './options/tasks.ts'
import { parseValue } from './values.ts'

export const OPTIONS = {
  ...MODEL_OPTIONS,
  ...METHOD_OPTIONS,
  ...DATA_OPTIONS,
  ...PRETRAIN_OPTIONS,
  ...TASK_OPTIONS,
  ...SCHEDULE_OPTIONS,
  ...EVALUATION_OPTIONS,
  ...GENERATION_OPTIONS,
  ...DEVICE_OPTIONS,
  ...OUTPUT_OPTIONS,
} as const satisfies Record<string, OptionSpec>

type Table = typeof OPTIONS
export type OptionName = keyof Table
export const OPTION_NAMES = Object.keys(OPTIONS) as OptionName[]

/** The table's entry of an option. */
export const specOf = (name: OptionName): OptionSpec => OPTIONS[name]

/** Options that other ones stand for in a configuration. */
type Translated = { [K in OptionName]: Table[K] extends { means: unknown } ? K : never }[OptionName]
type Kept = Exclude<OptionName, Translated>
type Optional = { [K in Kept]: Table[K] extends { default: unknown } ? never : K }[Kept]
type Value<K extends OptionName> = z.output<Table[K]['schema']>

/**
 * Checked values of all options; those without a default may be absent.
 * @interface
 */
export type Config = { [K in Exclude<Kept, Optional>]: Value<K> } & { [K in Optional]?: Value<K> }

type NameOf<C extends Command> = {
  [K in OptionName]: C extends Table[K]['commands'][number] ? K : never
}[OptionName]

/** Arguments of a function of the library: its options by their own names; byte sizes also as '4GiB'. */
export type OptionsOf<C extends Command> = {
  readonly [K in NameOf<C>]?:
    Value<K> | (Table[K] extends { value: 'bytes' } ? string : never) | undefined
}

type Camel<S extends string> = S extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<Camel<Tail>>}`
  : S
type Alias<K extends OptionName> = Table[K] extends { aliases: readonly (infer A extends string)[] }
  ? Camel<A>
  : never
type Snake<S extends string> = S extends `${infer Head}${infer Tail}`
  ? `${Head extends Lowercase<Head> ? Head : `_${Lowercase<Head>}`}${Snake<Tail>}`
  : ''

/** The same by every name that the table knows, in camelCase. */
export type SpelledOptionsOf<C extends Command> = {
  readonly [K in NameOf<C> as K | Alias<K>]?: OptionsOf<C>[K]
}
/** And in snake_case. */
export type SnakeCase<T> = { readonly [K in keyof T & string as Snake<K>]?: T[K] }

/** Whether one of the commands takes the option; without commands it is asked of none. */
export const takes = (commands: readonly Command[], name: OptionName): boolean =>
  commands.length === 0 || specOf(name).commands.some((command) => commands.includes(command))

/** The default of an option for the first of the commands that has one of its own. */
export function defaultOf(name: OptionName, commands: readonly Command[]): unknown {
  const { default: usual, defaults = {} } = specOf(name)
  const own = commands.find((command) => command in defaults)
  return own === undefined ? usual : defaults[own]
}

/**
 * Checks options by any of their spellings, and fills in the defaults of all others.
 * @param commands whose options they are; none: those of all
 * @throws UserError (usage) naming the option, what was expected and what was found
 */
export function parseConfig(input: object, ...commands: Command[]): Config {
  const given = readSpellings(input, SPECS)
  for (const { name, spelled } of given.values()) {
    if (takes(commands, name as OptionName)) continue
    const owners = specOf(name as OptionName).commands.join(', ')
    throw usage(`${spelled} is an option of ${owners}; ${commands[0]} has no use for it`)
  }
  const values = translated(valuesOf(given))
  const config = completed(values, commands)
  const known = { values: config, specs: SPECS, commands }
  checkTogether({ ...known, isGiven: (name) => isOther(config, name as OptionName, commands) })
  return config as Config
}

/** The configuration of a run's record: checked when it was written, maybe by rules that were others. */
export function storedConfig(values: Values): Config {
  return completed(translated(values), []) as Config
}

const SPECS: Readonly<Record<string, OptionSpec>> = OPTIONS
const usage = (text: string) => new UserError(text, { exitCode: 2 })

/** Checked values by the options' own names. */
export function valuesOf(given: ReadonlyMap<string, Given>): Record<string, unknown> {
  const values: Record<string, unknown> = {}
  for (const [name, { spelled, value }] of given) {
    if (value === SPECS[name]!.none && value !== undefined) continue
    values[name] = parseValue(spelled, SPECS[name]!.schema, value)
  }
  return values
}

/** The values with what translated options mean in their place. */
function translated(values: Values): Record<string, unknown> {
  const result = { ...values }
  for (const [name, value] of Object.entries(values)) {
    const means = SPECS[name]?.means?.(value)
    if (!means) continue
    delete result[name]
    for (const [other, meant] of Object.entries(means)) {
      const found = values[other]
      if (found !== undefined && found !== meant) {
        throw usage(
          `${flag(name)} means ${flag(other)} ${String(meant)}; found ${flag(other)} ${String(found)}: give one`,
        )
      }
      result[other] = meant
    }
  }
  return result
}

function completed(values: Values, commands: readonly Command[]): Record<string, unknown> {
  const config: Record<string, unknown> = {}
  for (const name of OPTION_NAMES) {
    const value = values[name] ?? defaultOf(name, commands)
    if (value !== undefined) config[name] = value
  }
  return config
}

/** Whether a configuration has something else than the default. */
function isOther(config: Values, name: OptionName, commands: readonly Command[]): boolean {
  const text = (value: unknown) => JSON.stringify(value)
  return config[name] !== undefined && text(config[name]) !== text(defaultOf(name, commands))
}
