// Data files as a stream of records: .jsonl, .json, .csv, .tsv, .txt, .parquet and .arrow. Owns what
// the formats are and their errors; what the columns mean is examples.ts's matter. Files are hostile:
// text is bounded per record and must be UTF-8, parquet pages are bounded before they are unpacked.

import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { extname } from 'node:path'
import { UserError } from '../util/errors.ts'
import { excerpt, isObject, listing, parseJson, quote, type Json } from '../util/untrusted.ts'
import { notUtf8 } from '../util/utf8.ts'
import { arrowRecords } from './arrow.ts'
import { delimitedRows, type Format, type Row } from './delimited.ts'
import { parquetRecords } from './parquet.ts'
import { readText, withPlainLineEnds, type SourceRecord } from './whole-file.ts'

const READERS: Readonly<Record<string, (path: string) => AsyncIterable<SourceRecord>>> = {
  '.jsonl': jsonLines,
  '.json': jsonArray,
  '.csv': (path) => delimited(path, { delimiter: ',', quotes: true }),
  // As data sets publish TSV: a quote is a character like any other.
  '.tsv': (path) => delimited(path, { delimiter: '\t', quotes: false }),
  '.txt': wholeText,
  '.parquet': parquetRecords,
  '.arrow': arrowRecords,
}

// A longer line is a file of another kind, or all of it without line ends.
const MAX_RECORD_CHARACTERS = 64 * 2 ** 20
// JavaScript strings end at 512 Mi characters.
const MAX_WHOLE_BYTES = 256 * 2 ** 20

/**
 * Reads a data file record by record, chosen by the extension of its name. A .txt file is a single
 * record {text}; delimited files have a header row and string values.
 * @throws UserError naming file and line for whatever is wrong with the file, also if it is empty
 */
export async function* readRecords(path: string): AsyncGenerator<SourceRecord> {
  const reader = READERS[extname(path).toLowerCase()]
  if (!reader) {
    const known = Object.keys(READERS).join(', ')
    throw new UserError(`${path}: the name of a data file must end in one of ${known}`)
  }
  const stats = await stat(path).catch((cause: Error) => {
    throw new UserError(`cannot read ${path}: ${cause.message}`, { cause })
  })
  if (!stats.isFile()) throw new UserError(`${path} must be a regular file`)
  let isEmpty = true
  for await (const record of reader(path)) {
    isEmpty = false
    yield record
  }
  if (isEmpty) throw new UserError(`${path} holds no records: give a data file that is not empty`)
}

async function* jsonLines(path: string): AsyncGenerator<SourceRecord> {
  let isFirst = true
  for await (const { line, number } of lines(path)) {
    if (line.trim() === '') continue
    const place = `${path}:${number}`
    const isDocument = isFirst && /^\s*(\[|\{\s*$)/.test(line)
    const advice = isDocument ? 'name a file that is one JSON array .json' : ''
    yield { values: asObject(parseJson(line, place, advice), place, advice), place }
    isFirst = false
  }
}

async function* jsonArray(path: string): AsyncGenerator<SourceRecord> {
  const text = await whole(path)
  if (text.trim() === '') return
  const values = parseJson(text, path, isJsonLines(text) ? RENAME_TO_JSONL : '')
  if (!Array.isArray(values)) {
    throw new UserError(
      `${path} must hold a JSON array of objects, not ${excerpt(values)}: ${RENAME_TO_JSONL}, or ` +
        `make an array of it`,
    )
  }
  for (const [i, value] of values.entries()) {
    const place = `${path}: item ${i + 1}`
    yield { values: asObject(value, place), place }
  }
}

const RENAME_TO_JSONL = 'name a file with one object on each line .jsonl'

/** Whether the first of several lines is a whole object. */
function isJsonLines(text: string): boolean {
  const begin = text.trimStart()
  const end = begin.indexOf('\n')
  if (end < 0) return false
  try {
    return isObject(parseJson(begin.slice(0, end), ''))
  } catch {
    return false
  }
}

async function* wholeText(path: string): AsyncGenerator<SourceRecord> {
  const text = withPlainLineEnds(await whole(path))
  if (text.trim() !== '') yield { values: { text }, place: path }
}

async function* delimited(path: string, format: Format): AsyncGenerator<SourceRecord> {
  let header: string[] | undefined
  for await (const row of delimitedRows(path, utf8Chunks(path), format)) {
    if (header) yield recordOf(path, header, row)
    else header = headerOf(path, row)
  }
}

/** Columns without a name, as pandas writes an index, get the names that it gives them. */
function headerOf(path: string, { fields, line }: Row): string[] {
  const names = fields.map((name, i) => name.trim() || `Unnamed: ${i}`)
  const seen = new Set<string>()
  for (const name of names) {
    if (!seen.has(name)) seen.add(name)
    else
      throw new UserError(`${path}:${line}: the header row names the column ${quote(name)} twice`)
  }
  return names
}

/** Empty fields behind the last column are commas at the end of the line. */
function recordOf(path: string, header: readonly string[], { fields, line }: Row): SourceRecord {
  const place = `${path}:${line}`
  const surplus = fields.slice(header.length)
  if (fields.length < header.length || surplus.some((field) => field !== '')) {
    throw new UserError(
      `${place}: expected ${header.length} fields, as the header row has (${listing(header)}), but ` +
        `found ${fields.length}`,
    )
  }
  return { values: Object.fromEntries(header.map((name, i) => [name, fields[i]])), place }
}

function asObject(value: unknown, place: string, advice = ''): Json {
  if (isObject(value)) return value
  const end = advice && `: ${advice}`
  throw new UserError(`${place}: expected a JSON object, found ${excerpt(value)}${end}`)
}

async function whole(path: string): Promise<string> {
  const text = await readText(path, MAX_WHOLE_BYTES)
  if (text === undefined) throw new UserError(`cannot read ${path}: it is gone`)
  return text
}

/** The lines of a text file, numbered from 1, without their \n or \r\n. */
async function* lines(path: string): AsyncGenerator<{ line: string; number: number }> {
  let rest = ''
  let number = 0
  for await (const chunk of utf8Chunks(path)) {
    const parts = chunk.split('\n')
    parts[0] = rest + parts[0]!
    rest = parts.pop()!
    for (const part of parts) yield { line: part.replace(/\r$/, ''), number: ++number }
    if (rest.length > MAX_RECORD_CHARACTERS) {
      throw new UserError(
        `${path}:${number + 1}: the line is longer than ${MAX_RECORD_CHARACTERS / 2 ** 20} Mi ` +
          `characters: put one record on each line`,
      )
    }
  }
  if (rest !== '') yield { line: rest.replace(/\r$/, ''), number: ++number }
}

/**
 * A file as strings, without a byte order mark.
 * @throws UserError naming the first byte that is no UTF-8
 */
export async function* utf8Chunks(path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const stream = createReadStream(path, { highWaterMark: 2 ** 18 })
  let bytes = 0
  /** The end of what was decoded, where a character may have begun. */
  let tail = new Uint8Array()
  const decode = (chunk?: Uint8Array) => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined })
    } catch (cause) {
      const isInside = (byte: number) => (byte & 0xc0) === 0x80
      const begin = tail.findIndex((byte) => !isInside(byte))
      const kept = begin < 0 ? new Uint8Array() : tail.subarray(begin)
      const all = Buffer.concat([kept, chunk ?? new Uint8Array()])
      throw notUtf8(all, bytes - kept.length, path, cause)
    }
  }
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      yield decode(chunk)
      bytes += chunk.length
      tail = chunk.slice(-3)
    }
    yield decode()
  } catch (cause) {
    if (cause instanceof UserError) throw cause
    throw new UserError(`cannot read ${path}: ${(cause as Error).message}`, { cause })
  } finally {
    stream.destroy()
  }
}
