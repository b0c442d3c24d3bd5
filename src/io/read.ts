// Positional reads of files that came from outside: open, check, read exactly, close. Also small JSON
// files as a whole, and what an error of the operating system is in a sentence.
// Leaves formats to src/checkpoint and writing to atomic.ts.

import { open, stat, type FileHandle } from 'node:fs/promises'
import { UserError } from '../util/errors.ts'
import { describe, isObject, parseJson } from '../util/untrusted.ts'
import { decodeUtf8 } from '../util/utf8.ts'
import type { DirectReader } from './direct.ts'

// One read(2) moves less than 2 GiB, and Node takes the length as an int32.
const MAX_READ_BYTES = 1 << 30

const LFS_POINTER = 'version https://git-lfs'

/** A file that is open for reading, and once more for direct reads where that can be had. */
export interface OpenFile {
  readonly path: string
  readonly handle: FileHandle
  readonly direct: FileHandle | null
}

/** Turns a failed open into one sentence. */
export const cannotOpen =
  (path: string) =>
  (error: unknown): never => {
    throw asUserError(error, `${path}: cannot be opened`)
  }

/** Fills `into` as `readFully` does, directly as far as the file can be read so. */
export async function readRange(
  { path, handle, direct }: OpenFile,
  positionBytes: number,
  into: Uint8Array,
  reader?: DirectReader,
): Promise<void> {
  let done = 0
  if (reader && direct) {
    done = await reader.read(direct, positionBytes, into).catch((error: unknown) => {
      throw asUserError(error, `${path}: reading byte ${positionBytes} failed`)
    })
  }
  if (done < into.byteLength) {
    await readFully(handle, path, positionBytes + done, into.subarray(done))
  }
}

/** Opens a regular file (symbolic links are followed); UserError when that cannot be done. */
export async function openForReading(
  path: string,
): Promise<{ handle: FileHandle; fileBytes: number }> {
  try {
    // Looked at before it is opened: opening a pipe would wait for its writer for ever.
    const found = await stat(path)
    if (!found.isFile()) throw new UserError(`${path}: expected a file, found something else`)
    return { handle: await open(path, 'r'), fileBytes: found.size }
  } catch (error) {
    return cannotOpen(path)(error)
  }
}

/** The first bytes of a file as text, '' of what is no regular file, null where nothing can be read. */
export async function headOf(path: string, bytes: number): Promise<string | null> {
  try {
    const found = await stat(path)
    if (!found.isFile()) return ''
    const head = new Uint8Array(Math.min(bytes, found.size))
    const { handle } = await openForReading(path)
    await readFully(handle, path, 0, head).finally(() => handle.close())
    return Buffer.from(head).toString()
  } catch {
    return null
  }
}

/**
 * Fills `into` from `positionBytes` of the file, over as many reads as that takes.
 * @throws UserError if the file ends before, or cannot be read
 */
export async function readFully(
  handle: FileHandle,
  path: string,
  positionBytes: number,
  into: Uint8Array,
): Promise<void> {
  let done = 0
  while (done < into.byteLength) {
    const length = Math.min(MAX_READ_BYTES, into.byteLength - done)
    const { bytesRead } = await handle
      .read(into, done, length, positionBytes + done)
      .catch((error: unknown) => {
        throw asUserError(error, `${path}: reading byte ${positionBytes + done} failed`)
      })
    if (bytesRead === 0) {
      throw new UserError(
        `${path}: expected ${into.byteLength - done} more bytes at ${positionBytes + done}, ` +
          `found the end of the file: it was changed or truncated while in use; restore it`,
      )
    }
    done += bytesRead
  }
}

/**
 * Reads a whole file that must not be larger than `maxBytes` (16 MiB, beyond any configuration), as
 * UTF-8 JSON whose top is an object.
 * @throws UserError if it is missing, larger, or no such JSON
 */
export async function readJsonObject(
  path: string,
  maxBytes = 2 ** 24,
): Promise<Record<string, unknown>> {
  const { handle, fileBytes } = await openForReading(path)
  try {
    if (fileBytes > maxBytes) {
      throw new UserError(
        `${path}: expected at most ${maxBytes} bytes of JSON, found ${fileBytes}; ` +
          `this is not the file of that name, download it again`,
      )
    }
    const raw = new Uint8Array(fileBytes)
    await readFully(handle, path, 0, raw)
    return parseJsonObject(raw, path)
  } finally {
    await handle.close()
  }
}

function parseJsonObject(raw: Uint8Array, path: string): Record<string, unknown> {
  if (looksLikeLfsPointer(raw)) {
    throw new UserError(`${path}: expected JSON, found a Git LFS pointer; run git lfs pull`)
  }
  const value = parseJson(decodeUtf8(raw, path), path, 'download it again')
  if (isObject(value)) return value
  throw new UserError(`${path}: expected a JSON object, found ${describe(value)}; replace it`)
}

/** True when these are the first bytes of the text that Git LFS leaves in place of a large file. */
export function looksLikeLfsPointer(firstBytes: Uint8Array): boolean {
  return Buffer.from(LFS_POINTER).equals(firstBytes.subarray(0, LFS_POINTER.length))
}

/** Whether a write found no room: on the disk, in the user's share of it, in one file. */
export const isFullDisk = (code: string | undefined) =>
  code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG'

/** Keeps a UserError; turns an operating system error into one that starts with `prefix`. */
export function asUserError(error: unknown, prefix: string): unknown {
  const code = (error as NodeJS.ErrnoException | null)?.code
  if (error instanceof UserError || typeof code !== 'string') return error
  // EBADF is a handle of ours used after its close: a bug, so it keeps its stack.
  if (code === 'EBADF' || code.startsWith('ERR_')) return error
  const advice =
    code === 'ENOENT'
      ? 'check the path'
      : isFullDisk(code)
        ? 'free some disk space there'
        : code === 'EMFILE' || code === 'ENFILE'
          ? 'too many files are open: raise the limit (ulimit -n)'
          : 'check the disk and the permissions'
  return new UserError(`${prefix} (${code}); ${advice}`, { cause: error })
}
