// Arrow files as records, through flechette: what Python's `datasets` leaves with save_to_disk. They
// are uncompressed and read whole, so that values are views of the file's own bytes.

import { readFile, stat } from 'node:fs/promises'
import { tableFromIPC, type Table } from '@uwdata/flechette'
import { UserError } from '../util/errors.ts'
import { withNumbers, type SourceRecord } from './whole-file.ts'
import type { Json } from '../util/untrusted.ts'

// Twice what `datasets` makes a shard at most.
const MAX_BYTES = 2 ** 30

/**
 * The rows of an Arrow IPC file or stream as objects by column name.
 * @throws UserError where it is too large or cannot be parsed
 */
export async function* arrowRecords(path: string): AsyncGenerator<SourceRecord> {
  const { size } = await stat(path)
  if (size > MAX_BYTES) {
    throw new UserError(
      `${path} is ${size} bytes where an Arrow file of at most ${MAX_BYTES} was expected: save the ` +
        `data set in more shards (num_shards), or as parquet`,
    )
  }
  const bytes = await readFile(path)
  const table = guarded(path, () => tableFromIPC(bytes, { useBigInt: true })) as Table
  for (let row = 0; row < table.numRows; row++) {
    const values = guarded(path, () => table.get(row)) as Json
    yield { values: withNumbers(values), place: `${path}: row ${row + 1}` }
  }
}

/** flechette throws plain errors, some of them by reading past the end of damaged bytes. */
function guarded<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (cause) {
    throw new UserError(`cannot read ${path} as Arrow: ${(cause as Error).message}`, { cause })
  }
}
