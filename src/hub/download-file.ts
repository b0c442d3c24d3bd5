// One file of a hub repository into one blob of the cache: resumes `<blob>.incomplete` (Python's
// too) with Range requests, tries again when the connection breaks or stalls, counts and hashes
// every byte, and only then syncs and renames. @huggingface/hub's own download has none of these,
// and does not tell a reply that honours the range from one that starts over.
import { createHash, type Hash } from 'node:crypto'
import { constants, type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { UserError } from '../util/errors.ts'
import { quote } from '../util/untrusted.ts'
import { asTransient, backOff, type Hub, type RemoteFile, TransientError } from './api.ts'
import { fileBytes } from './cache.ts'

/** A download in progress: `doneBytes` bytes are in the file and in the hash. */
interface Partial {
  readonly handle: FileHandle
  hash: Hash
  doneBytes: number
}

type OnBytes = (doneBytes: number) => void

/** Where a blob is written until it is whole. */
export const partialPath = (blob: string): string => `${blob}.incomplete`

const STALL_MS = 30_000
const READ_BYTES = 2 ** 20

/** What arrived is not what the hub announced; the partial file must go. */
class Mismatch extends Error {}

/**
 * Downloads `file` of `commit` to the path `blob`. When it throws or is aborted, what has arrived
 * stays in `<blob>.incomplete` for the next call, unless it is known to be wrong.
 * @param onBytes called with the bytes of the file that are there, at the start and after each piece.
 * @throws UserError after several failures in a row, and for content of another size or hash.
 */
export async function downloadBlob(
  hub: Hub,
  commit: string,
  file: RemoteFile,
  blob: string,
  onBytes: OnBytes,
): Promise<void> {
  await mkdir(dirname(blob), { recursive: true })
  const path = partialPath(blob)
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o666)
  try {
    const partial: Partial = { handle, hash: freshHash(file), doneBytes: 0 }
    await takeUp(partial, file, hub.signal)
    onBytes(partial.doneBytes)
    await receiveAll(hub, commit, file, partial, onBytes)
    if (partial.hash.digest('hex') !== file.hash) {
      throw new Mismatch(`its ${file.hashKind} differs from ${file.hash}`)
    }
    if ((await handle.stat()).size !== file.bytes) throw new Mismatch('another program wrote to it')
    await handle.sync()
  } catch (error) {
    if (!(error instanceof Mismatch)) throw error
    await rm(path, { force: true })
    throw new UserError(
      `${file.name} of ${hub.id} arrived damaged (${error.message}), so the partial file was ` +
        `deleted: run the command again`,
    )
  } finally {
    await handle.close()
  }
  await moveIntoPlace(path, blob)
}

function freshHash(file: RemoteFile): Hash {
  if (file.hashKind === 'sha256') return createHash('sha256')
  return createHash('sha1').update(`blob ${file.bytes}\0`)
}

/** Counts and hashes what an earlier attempt left; starts over if that is too long. */
async function takeUp(partial: Partial, file: RemoteFile, signal: AbortSignal): Promise<void> {
  const { size } = await partial.handle.stat()
  if (size > file.bytes) return startOver(partial, file)
  const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, size))
  while (partial.doneBytes < size) {
    signal.throwIfAborted()
    const { bytesRead } = await partial.handle.read(buffer, 0, buffer.length, partial.doneBytes)
    if (bytesRead === 0) return
    partial.hash.update(buffer.subarray(0, bytesRead))
    partial.doneBytes += bytesRead
  }
}

async function startOver(partial: Partial, file: RemoteFile): Promise<void> {
  await partial.handle.truncate(0)
  partial.hash = freshHash(file)
  partial.doneBytes = 0
}

/** Asks again until the file is whole; failures count only while none of them brings news. */
async function receiveAll(
  hub: Hub,
  commit: string,
  file: RemoteFile,
  partial: Partial,
  onBytes: OnBytes,
): Promise<void> {
  let failures = 0
  let mostBytes = partial.doneBytes
  while (partial.doneBytes < file.bytes) {
    try {
      await receive(hub, commit, file, partial, onBytes)
    } catch (error) {
      if (!(error instanceof TransientError)) throw error
      failures = partial.doneBytes > mostBytes ? 1 : failures + 1
      mostBytes = Math.max(mostBytes, partial.doneBytes)
      const state = `${file.name}: ${error.message} at ${partial.doneBytes} of ${file.bytes} bytes`
      hub.log(`${state}, attempt ${failures}`)
      if (await backOff(failures, hub.signal)) continue
      throw new UserError(
        `${state}, ${failures} times in a row: check the connection and run the command again, ` +
          `which continues from there`,
        { cause: error },
      )
    }
  }
}

/** One request: appends what it brings. @throws TransientError when that is not the whole rest. */
async function receive(
  hub: Hub,
  commit: string,
  file: RemoteFile,
  partial: Partial,
  onBytes: OnBytes,
): Promise<void> {
  const stall = new AbortController()
  const timer = setTimeout(
    () => stall.abort(new Error(`nothing came for ${STALL_MS} ms`)),
    STALL_MS,
  )
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
  try {
    const response = await hub.fetch(fileUrl(hub, commit, file), {
      headers: requestHeaders(partial.doneBytes),
      signal: AbortSignal.any([hub.signal, stall.signal]),
    })
    reader = response.body?.getReader()
    await alignWith(response, partial, file)
    while (reader !== undefined) {
      const { value, done } = await reader.read().catch((error: unknown) => {
        throw asTransient(error, hub.signal)
      })
      if (done) break
      timer.refresh()
      if (partial.doneBytes + value.length > file.bytes) {
        throw new Mismatch(`it is longer than the ${file.bytes} bytes listed`)
      }
      await append(partial, value)
      onBytes(partial.doneBytes)
    }
    if (partial.doneBytes < file.bytes) throw new TransientError('the reply ended early')
  } finally {
    clearTimeout(timer)
    await reader?.cancel().catch(() => {}) // already failed: that error is the one to report
  }
}

const fileUrl = (hub: Hub, commit: string, file: RemoteFile): string =>
  `${hub.endpoint}/${hub.id}/resolve/${commit}/${file.name.split('/').map(encodeURIComponent).join('/')}`

// Compressed replies have no ranges and no length. Without the xet media type in `accept`, the hub
// redirects xet-backed files to plain bytes.
function requestHeaders(doneBytes: number): Record<string, string> {
  const headers = { accept: '*/*', 'accept-encoding': 'identity' }
  return doneBytes === 0 ? headers : { ...headers, range: `bytes=${doneBytes}-` }
}

/** Checks that the reply continues where the partial file ends; starts over if it is the whole. */
async function alignWith(response: Response, partial: Partial, file: RemoteFile): Promise<void> {
  if (response.status === 206) {
    const range = response.headers.get('content-range') ?? ''
    const [, first, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? []
    if (Number(first) !== partial.doneBytes) {
      throw new TransientError(`asked from byte ${partial.doneBytes}, got ${quote(range)}`)
    }
    if (total !== '*' && Number(total) !== file.bytes) {
      throw new Mismatch(`it has ${total} bytes and ${file.bytes} were listed`)
    }
    return
  }
  const length = response.headers.get('content-length')
  const isEncoded = response.headers.has('content-encoding')
  if (length !== null && !isEncoded && Number(length) !== file.bytes) {
    throw new Mismatch(`it has ${length} bytes and ${file.bytes} were listed`)
  }
  if (partial.doneBytes > 0) await startOver(partial, file)
}

async function append(partial: Partial, bytes: Uint8Array): Promise<void> {
  let written = 0
  while (written < bytes.length) {
    const { bytesWritten } = await partial.handle.write(
      bytes,
      written,
      bytes.length - written,
      partial.doneBytes + written,
    )
    written += bytesWritten
  }
  partial.hash.update(bytes)
  partial.doneBytes += bytes.length
}

/** Renames durably. Another program may have finished the same blob first: that serves as well. */
async function moveIntoPlace(path: string, blob: string): Promise<void> {
  try {
    await rename(path, blob)
  } catch (error) {
    if ((await fileBytes(blob)) === null) throw error
    await rm(path, { force: true })
    return
  }
  if (process.platform === 'win32') return // folders cannot be opened there
  const folder = await open(dirname(blob), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
