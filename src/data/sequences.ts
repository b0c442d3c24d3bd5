// What the kinds of data in examples.ts and classification.ts share: columns, cutting, labels.
// Files and their formats are readers.ts's matter.

import { UserError } from '../util/errors.ts'
import { type SourceRecord } from './whole-file.ts'
import { excerpt, quote, listing } from '../util/untrusted.ts'
import { IGNORED, type DataKind, type Example, type Sequence } from './types.ts'

/** Turns records of one kind into examples, and remembers what the user should know about them. */
export interface Maker {
  readonly kind: DataKind
  make(record: SourceRecord): Example[]
  /** Records that lost tokens so far. */
  truncated(): number
  /** Sentences about all records together. */
  notes(examples: readonly Example[]): string[]
}

/** The names of columns, for messages; one name that looks like several names its separator. */
export function columnsOf(names: readonly string[]): string {
  const separator = names.length === 1 ? /[;,\t|]/.exec(names[0]!)?.[0] : undefined
  if (separator === undefined) return listing(names)
  const rule = 'fields of a .csv file are separated by "," and of a .tsv file by tabs'
  return `${listing(names)} (separated by ${quote(separator)}? ${rule})`
}

/**
 * A record's text in a column.
 * @throws UserError naming the place where the column is missing or holds no text
 */
export function columnText({ values, place }: SourceRecord, column: string): string {
  const value = Object.hasOwn(values, column) ? values[column] : undefined
  if (typeof value === 'string') {
    if (!/\p{Surrogate}/u.test(value)) return value
    throw new UserError(
      `${place}: the column ${column} has half a surrogate pair (as \\ud800), which is no character`,
    )
  }
  const found =
    value === undefined
      ? `the columns are ${columnsOf(Object.keys(values))}`
      : `it is ${excerpt(value)}`
  throw new UserError(`${place}: expected a string in the column ${column}, but ${found}`)
}

/** The last `room` tokens of a context, its first `keep` tokens (BOS) in front among them. */
export function fitContext(context: readonly number[], keep: number, room: number): number[] {
  if (context.length <= room) return [...context]
  return [...context.slice(0, keep), ...context.slice(context.length - (room - keep))]
}

/** A context without labels and an answer with them. */
export function labelled(context: readonly number[], answer: readonly number[]): Sequence {
  const labels = [...context.map(() => IGNORED), ...answer]
  labels[0] = IGNORED
  return { inputIds: [...context, ...answer], labels }
}
