// Files that appear whole or not at all: written beside their place, synced, then renamed into it.
// Leaves what is written to the caller. A crash leaves at most a `.tmp` file, never half a result;
// the next one that writes to the same place removes it.
import { createHash, randomBytes } from 'node:crypto'
import { open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { asUserError, isFullDisk } from './read.ts'
import { isRunning, startOf } from './processes.ts'

/** Appends bytes to the file being written; `chunk` may be reused once the promise resolves. */
export type Append = (chunk: Uint8Array) => Promise<void>

/**
 * Creates or replaces the file at `path` by what `body` appends. `neededBytes` is its final size
 * (0: not known), named when the disk is full. On any error the temporary file is removed and `path` is as it was.
 */
export async function writeAtomically(
  path: string,
  neededBytes: number,
  body: (append: Append) => Promise<void>,
): Promise<void> {
  const directory = dirname(path)
  const temporary = await temporaryBeside(path)
  const own = (error: unknown): never => {
    throw (
      fullDiskError(error, path, neededBytes) ?? asUserError(error, `${path}: cannot be written`)
    )
  }
  const handle = await open(temporary, 'wx').catch(own)
  try {
    try {
      await body((chunk) => writeFully(handle, chunk).catch(own))
      await handle.sync().catch(own)
    } finally {
      await handle.close().catch(own)
    }
    await rename(temporary, path).catch(own)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await syncDirectory(directory).catch(own)
}

const fourDigits = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 4)

/** Four digits for this machine: process numbers of others say nothing here. */
const HOST = fourDigits(hostname())

/**
 * A hidden name beside `path` for what will be renamed to it. Removes what a killed process has left
 * under such a name: of a large model, that would take up the disk for good.
 */
export async function temporaryBeside(path: string): Promise<string> {
  const [directory, prefix] = [dirname(path), `.${basename(path)}.${HOST}`]
  for (const name of await readdir(directory).catch(() => [])) {
    const rest = name.startsWith(prefix) ? name.slice(prefix.length) : ''
    const [, pid, start] = /^([0-9a-f]{8})([0-9a-f]{4})[0-9a-f]{4}\.tmp$/.exec(rest) ?? []
    if (pid === undefined) continue
    if (await isRunning(parseInt(pid, 16), (started) => fourDigits(started) === start)) continue
    await rm(join(directory, name), { recursive: true, force: true }).catch(() => {})
  }
  const pid = process.pid.toString(16).padStart(8, '0')
  // Its number may have had another owner before.
  const start = fourDigits(await startOf(process.pid))
  return join(directory, `${prefix}${pid}${start}${randomBytes(2).toString('hex')}.tmp`)
}

/**
 * Makes renames and new names in a directory durable; does nothing where the system has no such
 * call.
 */
export async function syncDirectory(directory: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Writes a small text file atomically. */
export async function writeTextAtomically(path: string, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text)
  await writeAtomically(path, bytes.length, (append) => append(bytes))
}

async function writeFully(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  const stepBytes = 1 << 30
  let done = 0
  while (done < chunk.byteLength) {
    const length = Math.min(stepBytes, chunk.byteLength - done)
    done += (await handle.write(chunk, done, length, null)).bytesWritten
  }
}

function fullDiskError(error: unknown, path: string, neededBytes: number): UserError | undefined {
  const code = (error as NodeJS.ErrnoException | null)?.code
  if (!isFullDisk(code)) return undefined
  const needed = neededBytes > 0 ? `the ${neededBytes} bytes this file needs` : 'this file'
  return new UserError(
    `${path}: no space left for ${needed} (${code}); free space there or choose another directory`,
    { cause: error },
  )
}
