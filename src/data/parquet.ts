// Parquet files as records, through hyparquet, one row group in memory at a time. Bounds what a
// page may claim to unpack to.

import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { UserError } from '../util/errors.ts'
import { withNumbers, type SourceRecord } from './whole-file.ts'

// Writers aim at pages of 1 MiB; a claim beyond this is a mistake or an attack.
const MAX_PAGE_BYTES = 256 * 2 ** 20

type Unpack = NonNullable<(typeof compressors)[keyof typeof compressors]>

const bounded = Object.fromEntries(
  Object.entries(compressors).map(([codec, unpack]) => [codec, boundPage(unpack)]),
)

function boundPage(unpack: Unpack): Unpack {
  return (input, outputBytes) => {
    if (outputBytes > MAX_PAGE_BYTES) {
      throw new Error(`a page claims to unpack to ${outputBytes} bytes`)
    }
    return unpack(input, outputBytes)
  }
}

/**
 * The rows of a parquet file as objects by column name.
 * @throws UserError where it cannot be parsed
 */
export async function* parquetRecords(path: string): AsyncGenerator<SourceRecord> {
  let row = 0
  for (const { rowStart, rowEnd, read } of await rowGroups(path)) {
    const group = await read()
    if (group.length !== rowEnd - rowStart) {
      const found = `${group.length} rows where ${rowEnd - rowStart} are declared`
      throw new UserError(`${path} is damaged: a row group holds ${found}`)
    }
    for (const values of group) {
      yield { values: withNumbers(values), place: `${path}: row ${++row}` }
    }
  }
}

/** Number of rows that a parquet file declares. */
export async function parquetRows(path: string): Promise<number> {
  return (await rowGroups(path)).at(-1)?.rowEnd ?? 0
}

interface RowGroup {
  rowStart: number
  rowEnd: number
  read: () => Promise<Record<string, unknown>[]>
}

async function rowGroups(path: string): Promise<RowGroup[]> {
  return guarded(path, async () => {
    const file = await asyncBufferFromFile(path)
    const metadata = await parquetMetadataAsync(file, { geoparquet: false })
    let rowEnd = 0
    return metadata.row_groups.map((group) => {
      const rowStart = rowEnd
      rowEnd += Number(group.num_rows)
      const range = { rowStart, rowEnd }
      const options = { file, metadata, compressors: bounded, ...range }
      return { ...range, read: () => guarded(path, () => parquetReadObjects(options)) }
    })
  })
}

/** hyparquet throws plain errors, some of them by reading past the end of damaged bytes. */
async function guarded<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    throw new UserError(`cannot read ${path} as parquet: ${(cause as Error).message}`, { cause })
  }
}
