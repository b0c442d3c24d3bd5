// What the readers of tokenizer and data files share: bounded whole reads, the first check of
// parsed JSON, and the form of a record.

import { open } from 'node:fs/promises'
import { UserError } from '../util/errors.ts'

/** A JSON object, its values unchecked. */
export type Json = Readonly<Record<string, unknown>>

/** One record of a data file and where it stands, as `file:line` or `file: row n`. */
export interface SourceRecord {
  readonly values: Json
  readonly place: string
}

/** Whether a parsed value is an object proper: no array, not null. */
export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Parses JSON from a file.
 * @param place where the text stands; the line is added where the text has several
 * @throws UserError with the parser's complaint on one line
 */
export function parseJson(text: string, place: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    const message = (cause as Error).message.replace(/\s+/g, ' ')
    const offset = /position (\d+)/.exec(message)?.[1]
    const line = text.slice(0, Number(offset ?? 0)).split('\n').length
    const where = offset && text.includes('\n') ? `${place}:${line}` : place
    throw new UserError(`${where}: not valid JSON: ${message}`, { cause })
  }
}

/** A value as JSON, cut to a length that fits into a message. */
export function excerpt(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

/**
 * A whole UTF-8 file, without a byte order mark, or undefined where there is none.
 * @throws UserError where it is no file, larger than maxBytes, unreadable or not UTF-8
 */
export async function readText(path: string, maxBytes: number): Promise<string | undefined> {
  const file = await open(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') return undefined
    throw new UserError(`cannot read ${path}: ${cause.message}`, { cause })
  })
  if (!file) return undefined
  try {
    const stat = await file.stat()
    if (!stat.isFile() || stat.size > maxBytes) {
      const found = stat.isFile() ? `${Math.ceil(stat.size / 2 ** 20)} MiB` : 'no regular file'
      throw new UserError(
        `${path} must be a file of at most ${maxBytes / 2 ** 20} MiB, but it is ${found}`,
      )
    }
    const bytes = await file.readFile()
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    if (cause instanceof UserError) throw cause
    throw new UserError(`cannot read ${path} as UTF-8 text: ${(cause as Error).message}`, { cause })
  } finally {
    await file.close()
  }
}
