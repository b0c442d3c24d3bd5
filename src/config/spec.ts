// The type of an entry in the tables of options: all that is known of one option.
// The entries are in the files beside this one, by group; options.ts joins them.

import type { z } from 'zod'

/** Commands of the command line, and functions of the library, that take options. */
export type Command =
  | 'finetune'
  | 'pretrain'
  | 'eval'
  | 'generate'
  | 'chat'
  | 'sample'
  | 'plan'
  | 'bench'
  | 'export'
  | 'convert'
  | 'inspect'
  | 'fromPretrained'
  | 'zoInit'
  | 'ZOTrainer'
  | 'loadTask'

// Sets of commands that several options have.
export const RUNS = ['finetune', 'pretrain', 'ZOTrainer'] as const
export const ON_METHOD = [...RUNS, 'plan', 'bench', 'zoInit'] as const
export const ON_DEVICE = [
  'finetune',
  'pretrain',
  'eval',
  'generate',
  'chat',
  'sample',
  'plan',
  'bench',
  'fromPretrained',
] as const
export const ON_HUB = [...ON_DEVICE, 'convert', 'inspect'] as const

type Group = 'model' | 'method' | 'data' | 'schedule' | 'generation' | 'device' | 'output' | 'hub'

/** Values by option name. */
export type Values = Readonly<Record<string, unknown>>

export interface OptionSpec {
  readonly group: Group
  /** Placeholder of the value in --help; absent for a switch. */
  readonly value?: string
  readonly help: string
  readonly schema: z.ZodType
  readonly default?: unknown
  /** Where another default holds. */
  readonly defaults?: { readonly [C in Command]?: unknown }
  /** Other spellings, kebab-case; snake_case and camelCase twins of all names are accepted too. */
  readonly aliases?: readonly string[]
  /** Who takes it. */
  readonly commands: readonly Command[]
  /** Whether it decides the weights that a run makes: a resumed run must have the same. */
  readonly trajectory: boolean | ((config: Values) => boolean)
  /** The methods that it means something to; absent: all. */
  readonly methods?: readonly string[]
  /** Options without which it does nothing; of a list one is enough. */
  readonly needs?: readonly (string | readonly string[])[]
  /** Options that cannot be given beside it, and why not. */
  readonly excludes?: readonly string[]
  readonly because?: string
  /** Whether it does something beside these values; where not, `otherwise` ends the sentence. */
  readonly onlyWhen?: (values: Values, commands: readonly Command[]) => boolean
  readonly otherwise?: string
  /** A value that means the same as leaving it out. */
  readonly none?: unknown
  /** It is another way of saying these: they take its place in a configuration. */
  readonly means?: (value: unknown) => Values
  /** On a model card: not at all, or the file's name alone. */
  readonly card?: 'hidden' | 'basename'
}

/** `maxLength` -> `max-length`. */
export const flagName = (name: string) => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)

/** `--max-length`, for sentences. */
export const flag = (name: string) => `--${flagName(name)}`
