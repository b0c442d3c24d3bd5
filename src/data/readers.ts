// Data files as a stream of records: .jsonl, .json, .csv, .tsv, .txt, .parquet and .arrow. Owns syntax and
// its errors; what the columns mean is examples.ts's matter. Files are hostile: text is bounded per
// record and must be UTF-8, parquet pages are bounded before they are unpacked.

import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { extname } from 'node:path'
import { pipeline, Readable } from 'node:stream'
import { CsvError, parse } from 'csv-parse'
import { UserError } from '../util/errors.ts'
import { arrowRecords } from './arrow.ts'
import {
  excerpt,
  isObject,
  parseJson,
  readText,
  type Json,
  type SourceRecord,
} from './whole-file.ts'
import { parquetRecords } from './parquet.ts'

const READERS: Readonly<Record<string, (path: string) => AsyncIterable<SourceRecord>>> = {
  '.jsonl': jsonLines,
  '.json': jsonArray,
  '.csv': (path) => delimited(path, { delimiter: ',' }),
  // As data sets publish TSV: a quote is a character like any other.
  '.tsv': (path) => delimited(path, { delimiter: '\t', quote: null }),
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
  for await (const { line, number } of lines(path)) {
    if (line.trim() === '') continue
    const place = `${path}:${number}`
    yield { values: asObject(parseJson(line, place), place), place }
  }
}

async function* jsonArray(path: string): AsyncGenerator<SourceRecord> {
  const text = await whole(path)
  if (text.trim() === '') return
  const values = parseJson(text, path)
  if (!Array.isArray(values)) {
    throw new UserError(
      `${path} must hold a JSON array of objects, not ${excerpt(values)}: ` +
        `name a file with one object per line .jsonl`,
    )
  }
  for (const [i, value] of values.entries()) {
    const place = `${path}: item ${i + 1}`
    yield { values: asObject(value, place), place }
  }
}

async function* wholeText(path: string): AsyncGenerator<SourceRecord> {
  const text = await whole(path)
  if (text.trim() !== '') yield { values: { text }, place: path }
}

async function* delimited(
  path: string,
  format: { delimiter: string; quote?: null },
): AsyncGenerator<SourceRecord> {
  const parser = parse({
    ...format,
    columns: (header: string[]) => checkHeader(path, header),
    info: true,
    skip_empty_lines: true,
    max_record_size: MAX_RECORD_CHARACTERS,
  })
  // A record's line is its last one; csv-parse counts a quoted \r\n twice.
  // Errors of either stream end the loop below; leaving the loop early closes both.
  pipeline(Readable.from(utf8Chunks(path)), parser, () => {})
  try {
    for await (const { record, info } of parser as AsyncIterable<CsvRow>) {
      yield { values: record, place: `${path}:${info.lines}` }
    }
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause
    const line = (cause as CsvError & { lines?: number }).lines ?? 1
    throw new UserError(`${path}:${line}: ${cause.message}`, { cause })
  }
}

interface CsvRow {
  record: Record<string, string>
  info: { lines: number }
}

function checkHeader(path: string, header: string[]): string[] {
  const names = header.map((name) => name.trim())
  const wrong = names.find((name, i) => name === '' || names.indexOf(name) !== i)
  if (wrong === undefined) return names
  const fault = wrong === '' ? 'has a column without a name' : `names the column ${wrong} twice`
  throw new UserError(`${path}:1: the header row ${fault}`)
}

function asObject(value: unknown, place: string): Json {
  if (isObject(value)) return value
  throw new UserError(`${place}: expected a JSON object, found ${excerpt(value)}`)
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

/** A file as strings, without a byte order mark. */
export async function* utf8Chunks(path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const stream = createReadStream(path, { highWaterMark: 2 ** 18 })
  let bytes = 0
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      yield decoder.decode(chunk, { stream: true })
      bytes += chunk.length
    }
    yield decoder.decode()
  } catch (cause) {
    if (cause instanceof TypeError) {
      throw new UserError(`${path} is not UTF-8 text (after byte ${bytes}): convert it`, { cause })
    }
    throw new UserError(`cannot read ${path}: ${(cause as Error).message}`, { cause })
  } finally {
    stream.destroy()
  }
}
