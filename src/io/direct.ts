// Large reads past the page cache (O_DIRECT), for weights that it cannot hold: faster than through it
// once it is full, and they push nothing out of it. The system wants whole blocks at aligned
// addresses, so bytes come into aligned buffers and are copied from there.
// When to read so is src/weights/page-cache.ts's business; what is missing afterwards is read as usual (read.ts).

import { constants } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import PQueue from 'p-queue'

/** Positions, lengths and addresses are multiples of it: a page, and no disk's block is larger. */
export const BLOCK_BYTES = 4096
const CHUNK_BYTES = 8 * 2 ** 20
/** Reads in flight. One of libuv's four threads is left for whatever else waits for one. */
const READS_IN_FLIGHT = 3
/** A chunk touches one block more than it fills, on either side. */
const BUFFER_BYTES = CHUNK_BYTES + 2 * BLOCK_BYTES

/** Codes of "not on this file system" and of "not with this block size". */
const REFUSED: readonly unknown[] = ['EINVAL', 'EOPNOTSUPP', 'ENOTSUP']

/** Whether an error says that direct calls are not to be had here. */
export const isRefusal = (error: unknown): boolean =>
  REFUSED.includes((error as NodeJS.ErrnoException | null)?.code)

/** Zeros at an aligned address, which WebAssembly's memory has and a plain array may not have. */
export function alignedBytes(bytes: number): Uint8Array<ArrayBuffer> {
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) })
  return new Uint8Array(memory.buffer as ArrayBuffer, 0, bytes)
}

/** The whole blocks around a range of a file: where they begin, how far into them it does. */
export function blocksAround(positionBytes: number, bytes: number) {
  const skip = positionBytes % BLOCK_BYTES
  const length = Math.ceil((skip + bytes) / BLOCK_BYTES) * BLOCK_BYTES
  return { first: positionBytes - skip, skip, length }
}

/** Opens a file for direct calls; null where the system or the file system has none. */
export async function openDirect(
  path: string,
  flags = constants.O_RDONLY,
): Promise<FileHandle | null> {
  // Not in every system's constants, whatever the types say.
  const direct = constants.O_DIRECT as number | undefined
  if (direct === undefined) return null
  return open(path, flags | direct).catch((error: unknown) => {
    if (isRefusal(error)) return null
    throw error
  })
}

export interface DirectReader {
  /**
   * Fills `into` from its front and returns how many bytes that were: fewer where the file ends or
   * refuses. Rejects with the system's error once no read of this call is under way.
   */
  read(handle: FileHandle, positionBytes: number, into: Uint8Array): Promise<number>
}

/** One reader for every file of a run; its buffers (24 MiB) are made at the first read. */
export function createDirectReader(): DirectReader {
  const queue = new PQueue({ concurrency: READS_IN_FLIGHT })
  let idle: Uint8Array[] | undefined

  const fill = async (handle: FileHandle, positionBytes: number, into: Uint8Array) => {
    idle ??= Array.from({ length: READS_IN_FLIGHT }, () => alignedBytes(BUFFER_BYTES))
    const buffer = idle.pop()!
    try {
      const { first, skip, length } = blocksAround(positionBytes, into.byteLength)
      const { bytesRead } = await handle.read(buffer, 0, length, first)
      const got = Math.min(Math.max(0, bytesRead - skip), into.byteLength)
      into.set(buffer.subarray(skip, skip + got))
      return got
    } finally {
      idle.push(buffer)
    }
  }
  return {
    async read(handle, positionBytes, into) {
      const chunks: Promise<number>[] = []
      for (let at = 0; at < into.byteLength; at += CHUNK_BYTES) {
        const part = into.subarray(at, at + CHUNK_BYTES)
        chunks.push(queue.add(() => fill(handle, positionBytes + at, part)))
      }
      let done = 0
      for (const [i, chunk] of (await Promise.allSettled(chunks)).entries()) {
        if (chunk.status === 'rejected') {
          if (isRefusal(chunk.reason)) return done
          throw chunk.reason
        }
        done += chunk.value
        if (done < Math.min((i + 1) * CHUNK_BYTES, into.byteLength)) return done
      }
      return done
    },
  }
}
