// What the system's page cache can hold, and which tensors are left to it. Weights that all fit are
// read through it and come from memory from the second step on. If they do not fit, each byte would be
// evicted before it is read again: then the leading tensors, up to a share of the memory, are read
// through the cache, and the rest past it (src/io/direct.ts).

import { freemem, totalmem } from 'node:os'

/** Of the memory that is free or could be, what weights may count on: something is always wanted. */
const FITTING = 0.9
/** Of the same, what the tensors kept of a larger model take: the rest is other programs' cache. */
const KEPT = 0.5

/** Bytes the page cache could grow to: what the system calls available, within a container's limit. */
export function cacheRoomBytes(): number {
  const limit = process.constrainedMemory()
  const left = limit > 0 && limit < totalmem() ? limit - process.memoryUsage.rss() : Infinity
  return Math.max(0, Math.min(freemem(), left))
}

/** Whether the page cache keeps all of `bytes` that are read again and again. */
export const fitsPageCache = (bytes: number, roomBytes = cacheRoomBytes()): boolean =>
  bytes <= FITTING * roomBytes

interface CacheShare {
  /** Whether the tensor is to be read through the page cache; decided when first asked. */
  keeps(name: string, bytes: number): boolean
  /** Gives the tensor's part back: its bytes are not read any more. */
  release(name: string): void
}

/** First come, first kept: tensors are asked for in the order of their use. */
export function createCacheShare(roomBytes: number): CacheShare {
  const kept = new Map<string, number>()
  let left = KEPT * roomBytes
  return {
    keeps(name, bytes) {
      if (!kept.has(name)) {
        const part = bytes <= left ? bytes : 0
        left -= part
        kept.set(name, part)
      }
      return kept.get(name)! > 0
    },
    release(name) {
      left += kept.get(name) ?? 0
      kept.delete(name)
    },
  }
}
