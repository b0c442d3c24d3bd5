// Folders for temporary files, in the system's place for them.
// Each is removed when its user is done; the overlay's file is src/weights/places.ts's.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { UserError } from '../util/errors.ts'

/**
 * Makes a new folder; whoever asks for it removes it.
 * @throws UserError if the system's place for temporary files is not there or full
 */
export async function scratchFolder(): Promise<string> {
  try {
    return await mkdtemp(join(tmpdir(), 'zo2-'))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UserError(
      `${tmpdir()}: no folder for temporary files can be made there (${code}); set TMPDIR to a folder that you can write to`,
      { cause: error },
    )
  }
}

/** Runs `use` with such a folder, and removes it. */
export async function withScratchFolder<T>(use: (dir: string) => Promise<T>): Promise<T> {
  const dir = await scratchFolder()
  try {
    return await use(dir)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}
