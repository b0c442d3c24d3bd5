// What the readers of tokenizer and data files share: bounded whole reads, line ends, 64-bit integers,
// and the form of a record. Parsing and showing what stands in them is src/util/untrusted.ts's matter.

import { readFile, stat } from 'node:fs/promises'
import { UserError } from '../util/errors.ts'
import type { Json } from '../util/untrusted.ts'
import { decodeUtf8 } from '../util/utf8.ts'

/** One record of a data file and where it stands, as `file:line` or `file: row n`. */
export interface SourceRecord {
  readonly values: Json
  readonly place: string
}

/** Line ends as Python reads text: \r\n and \r are \n. */
export const withPlainLineEnds = (text: string): string => text.replace(/\r\n?/g, '\n')

/** 64-bit integers as numbers, but for those that these cannot hold: a column that nobody reads may. */
export function withNumbers(values: Json): Json {
  const entries = Object.entries(values).map(([column, value]) => {
    const isSafe = typeof value === 'bigint' && Number.isSafeInteger(Number(value))
    return [column, isSafe ? Number(value) : value] as const
  })
  return Object.fromEntries(entries)
}

/**
 * A whole UTF-8 file, without a byte order mark, or undefined where there is none.
 * @throws UserError where it is no file, larger than maxBytes, unreadable or not UTF-8
 */
export async function readText(path: string, maxBytes: number): Promise<string | undefined> {
  try {
    // Looked at before it is opened: opening a pipe would wait for its writer for ever.
    const found = await stat(path)
    if (!found.isFile() || found.size > maxBytes) {
      const what = found.isFile() ? `${Math.ceil(found.size / 2 ** 20)} MiB` : 'no regular file'
      throw new UserError(
        `${path} must be a file of at most ${maxBytes / 2 ** 20} MiB, but it is ${what}`,
      )
    }
    return decodeUtf8(await readFile(path), path)
  } catch (cause) {
    if (cause instanceof UserError) throw cause
    const { code = '', message } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new UserError(`cannot read ${path}: ${message}`, { cause })
  }
}
