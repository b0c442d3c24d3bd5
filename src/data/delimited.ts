// Rows of .csv and .tsv text, read by the rules of pandas.read_csv, so that a file means here what it
// means there: \n, \r\n and \r end a row, also side by side in one file; a quote counts only at the
// beginning of a field, and text behind a closing one belongs to the field; blank lines are skipped.
// Says on which line a quote opens that nobody closes. Headers and columns are readers.ts's matter.
// Libraries read other texts: of test/fixtures/csv.json csv-parse 7 leaves `"a" b` its quotes, drops the row
// `""` and names the last line for a quote that is never closed; papaparse 5 joins rows of mixed line ends.
// Source: pandas/_libs/src/parser/tokenizer.c.

import { UserError } from '../util/errors.ts'

/** Fields of one row, and the line that it begins on. */
export interface Row {
  readonly fields: readonly string[]
  readonly line: number
}

export interface Format {
  readonly delimiter: string
  /** Whether fields may stand in double quotes; otherwise a quote is a character like any other. */
  readonly quotes: boolean
}

// A longer row is a file of another kind, or a quote that swallows the rest of it.
const MAX_ROW_CHARACTERS = 64 * 2 ** 20

/** Where the next character stands: `quoted` within quotes, `closed` behind the one that ends them. */
type Place = 'start' | 'plain' | 'quoted' | 'closed'

/**
 * The rows of a text that comes in chunks.
 * @throws UserError for a quote that is never closed, or a row without an end
 */
export async function* delimitedRows(
  path: string,
  chunks: AsyncIterable<string>,
  { delimiter, quotes }: Format,
): AsyncGenerator<Row> {
  let fields: string[] = []
  let field = ''
  let place: Place = 'start'
  let [line, rowLine, quoteLine] = [1, 1, 0]
  let [characters, isAfterReturn] = [0, false]

  /** Ends the row under way; null where it is a blank line. */
  const ended = (text: string): Row | null => {
    const isBlank = fields.length === 0 && place !== 'closed' && /^[ \t]*$/.test(text)
    const row = isBlank ? null : { fields: [...fields, text], line: rowLine }
    ;[fields, field, place] = [[], '', 'start']
    return row
  }

  for await (const chunk of chunks) {
    let from = 0 // of the characters that are not yet in `field`
    for (let i = 0; i < chunk.length; i++) {
      const character = chunk[i]!
      const isSecondOfPair = character === '\n' && isAfterReturn
      isAfterReturn = character === '\r'
      const endsLine = (character === '\n' && !isSecondOfPair) || isAfterReturn
      if (endsLine) line++
      if (place === 'quoted') {
        if (character !== '"') continue
        field += chunk.slice(from, i)
        from = i + 1
        place = 'closed'
      } else if (isSecondOfPair) {
        from = i + 1
      } else if (character === '"' && quotes && (place === 'start' || place === 'closed')) {
        // Behind a closing quote it is the second of a pair, which stands for one.
        if (place === 'start') [from, quoteLine] = [i + 1, line]
        place = 'quoted'
      } else if (character === delimiter) {
        fields.push(field + chunk.slice(from, i))
        from = i + 1
        field = ''
        place = 'start'
      } else if (endsLine) {
        const row = ended(field + chunk.slice(from, i))
        from = i + 1
        ;[characters, rowLine] = [-from, line]
        if (row) yield row
      } else {
        place = 'plain'
      }
    }
    field += chunk.slice(from)
    characters += chunk.length
    if (characters > MAX_ROW_CHARACTERS) throw endless(path, rowLine, place, quoteLine)
  }
  if (place === 'quoted') throw unclosed(path, quoteLine)
  const row = ended(field)
  if (row) yield row
}

const unclosed = (path: string, line: number) =>
  new UserError(`${path}:${line}: the quote that opens on this line is never closed: close it`)

function endless(path: string, line: number, place: Place, quoteLine: number): UserError {
  if (place === 'quoted') return unclosed(path, quoteLine)
  return new UserError(
    `${path}:${line}: the row is longer than ${MAX_ROW_CHARACTERS / 2 ** 20} Mi characters: ` +
      `put one record on each line`,
  )
}
