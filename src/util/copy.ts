// Copies of files that may be read-only where they come from: a copy is its owner's to write.
// What is copied, and whether the copy appears at once, is the caller's matter.

import { chmod, constants, copyFile } from 'node:fs/promises'

/**
 * Copies a file's bytes, and of its mode nothing: the copy is as writable as a new file.
 * @param exclusive refuse (EEXIST) to replace a file that is there
 */
export async function copyOwn(from: string, to: string, { exclusive = false } = {}): Promise<void> {
  await copyFile(from, to, exclusive ? constants.COPYFILE_EXCL : 0)
  await chmod(to, 0o666 & ~process.umask())
}
