// Checked access to the columns of a task's rows.
// Which columns a task has is said in the task; rows are read by source.ts.

import { UserError } from '../../util/errors.ts'
import { type SourceRecord } from '../whole-file.ts'
import { excerpt, isObject } from '../../util/untrusted.ts'
import { columnText } from '../sequences.ts'

/** A column that holds a string. */
export const text = columnText

/** A column that holds the index of one of `count` classes; a boolean counts as 0 or 1. @throws UserError */
export function label({ values, place }: SourceRecord, column: string, count: number): number {
  const value = Number(values[column] ?? NaN)
  if (Number.isInteger(value) && value >= 0 && value < count) return value
  throw new UserError(
    `${place}: ${column} must be a label from 0 to ${count - 1}, but it is ` +
      `${excerpt(values[column])}: take a split that has labels`,
  )
}

/** A column, or `column.field` of one, that holds one or more strings. */
export function texts(
  { values, place }: SourceRecord,
  column: string,
  field?: string,
): readonly [string, ...string[]] {
  const outer = values[column]
  const value = field === undefined ? outer : isObject(outer) ? outer[field] : undefined
  if (Array.isArray(value) && value.length > 0 && value.every((v) => typeof v === 'string')) {
    return value as unknown as [string, ...string[]]
  }
  const name = field === undefined ? column : `${column}.${field}`
  throw new UserError(
    `${place}: ${name} must be a list of one or more strings, but it is ${excerpt(value)}`,
  )
}
