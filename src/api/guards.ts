// What programs hand over, checked where it comes in: objects of options, folders, lists, functions. Values
// of options are checked by their table (config/), batches by data/batches.ts. Code of the caller's own, such
// as a getter or a generator that throws, keeps its error.

import { OPTIONS, type Config } from '../config/options.ts'
import { parseValue } from '../config/values.ts'
import { UserError } from '../util/errors.ts'
import { describe } from '../util/untrusted.ts'

const expected = (what: string, expectation: string, found: unknown) =>
  new UserError(`${what}: expected ${expectation}, found ${describe(found)}`)

/** @throws UserError for what is no object */
export function objectOf<T extends object>(value: T, what: string): T {
  if (typeof value === 'object' && (value as object | null) !== null) return value
  throw expected(what, 'an object of options', value)
}

/** @throws UserError for what cannot be the path of a folder */
export function folderOf(value: string, what: string): string {
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value
  throw expected(what, 'the path of a folder', value)
}

/** @throws UserError for another dtype than a model can be written in */
export const dtypeOf = (value: unknown): Config['dtype'] =>
  parseValue('dtype', OPTIONS.dtype.schema, value) as Config['dtype']

/** @throws UserError for what is no array */
export function listOf<T>(value: readonly T[], what: string): readonly T[] {
  if (Array.isArray(value)) return value
  throw expected(what, 'a list', value)
}

/** @throws UserError for what is there and is no function */
export function functionOf<T>(value: T, what: string): T {
  if (value === undefined || typeof value === 'function') return value
  throw expected(what, 'a function', value)
}

/** @throws UserError for what cannot be gone through, or has no batches in it but characters */
export function batchesOf<T>(value: Iterable<T> | AsyncIterable<T>, what: string) {
  const found: unknown = value
  const isObject = typeof found === 'object' && found !== null
  if (isObject && (Symbol.iterator in found || Symbol.asyncIterator in found)) return value
  throw expected(what, 'an iterable of batches', value)
}
