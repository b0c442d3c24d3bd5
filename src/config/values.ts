// What the values of options may be, and the one sentence that a wrong one gets. The options
// themselves are in the tables that options.ts joins.

import { z } from 'zod'
import { UserError } from '../util/errors.ts'
import { parseBytes } from '../util/units.ts'
import { excerpt } from '../util/untrusted.ts'

// A number, or its text; a blank text is none. zod's own coercion takes it for 0.
const numeric = (expected: string, fits: (value: number) => boolean) =>
  z.preprocess(
    (value) => (typeof value === 'string' && value.trim() ? Number(value) : value),
    z.number(`expected ${expected}`).refine(fits, `expected ${expected}`),
  )
export const wholeFrom = (least: number) =>
  numeric(`a whole number of at least ${least}`, (n) => Number.isSafeInteger(n) && n >= least)
export const positive = numeric('a number above 0', (n) => n > 0)
export const finite = numeric('a number', Number.isFinite)
export const nonnegative = numeric('a number of at least 0', (n) => n >= 0)
export const share = numeric('a number above 0 and at most 1', (n) => n > 0 && n <= 1)
export const whole = wholeFrom(0)
export const count = wholeFrom(1)
export const wholeAtMost = (most: number) =>
  numeric(`a whole number from 0 to ${most}`, (n) => Number.isSafeInteger(n) && n >= 0 && n <= most)
export const countAtMost = (most: number) =>
  numeric(`a whole number from 1 to ${most}`, (n) => Number.isSafeInteger(n) && n >= 1 && n <= most)
/** Sequences, or lists of them, that a call may ask for: each has a place in memory before any is computed. */
export const MOST_SEQUENCES = 2 ** 20
const FLAGS: Readonly<Record<string, boolean>> = { yes: true, no: false, true: true, false: false }
export const yesNo = z.preprocess(
  (value) => (typeof value === 'string' ? (FLAGS[value.toLowerCase()] ?? value) : value),
  z.boolean('expected yes or no'),
)
export const bytes = z.union([z.number().int().positive(), z.string().transform(parseBytes)])
/** `a, b or c`. */
const alternatives = (values: readonly string[]) =>
  values.length < 2 ? values.join() : `${values.slice(0, -1).join(', ')} or ${values.at(-1)}`

/** One of some words. */
export const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, `expected ${alternatives(values)}`)

export const text = z.string('expected a text')
export const path = z
  .string('expected a path')
  .refine((name) => name !== '' && !name.includes('\0'), 'expected a path')
/** An option that is there or not. */
export const isOn = z.boolean('expected true or false')
export const textList = z.array(
  text.min(1, 'expected a text that is not empty'),
  'expected a list of texts',
)
export const list = z.union(
  [z.array(text), z.string().transform((words) => words.split(',').map((word) => word.trim()))],
  'expected texts, in quotes where they look like numbers',
)

/**
 * Checks one value.
 * @throws UserError (usage) naming flag, expectation and what was found
 */
export function parseValue(flag: string, schema: z.ZodType, value: unknown): unknown {
  const wrong = (why: string) => new UserError(`${flag}: ${why}`, { exitCode: 2 })
  let parsed
  try {
    parsed = schema.safeParse(value)
  } catch (error) {
    throw error instanceof UserError ? wrong(error.message) : error // a byte size, from src/util/units.ts
  }
  if (parsed.success) return parsed.data
  const why = parsed.error.issues[0]!.message.replace(/^Invalid (input|option): /, '')
  throw wrong(`${why}, found ${excerpt(value)}`)
}
