// A fingerprint of a run's inputs: the base weights by names, shapes and samples of their
// bytes, a data file by all of its bytes. A run resumes on no other.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { UserError } from '../util/errors.ts'
import { openFiles } from '../checkpoint/files.ts'
import type { Checkpoint } from '../checkpoint/types.ts'

/** Bytes sampled at the start, in the middle and at the end of every tensor. */
const SAMPLE_BYTES = 64

/** 16 hex digits that identify the weights of a checkpoint, whatever folder it lies in. */
export async function fingerprint(checkpoint: Checkpoint): Promise<string> {
  const hash = createHash('sha256')
  const files = await openFiles(checkpoint.files)
  try {
    for (const entry of checkpoint.tensors.values()) {
      hash.update(`${entry.name} ${entry.dtype} ${entry.shape.join()}\n`)
      const sample = new Uint8Array(Math.min(SAMPLE_BYTES, entry.bytes))
      const last = entry.bytes - sample.length
      for (const at of [0, Math.floor(last / 2), last]) {
        await files.read(entry, at, sample)
        hash.update(sample)
      }
    }
  } finally {
    await files.close()
  }
  return hash.digest('hex').slice(0, 16)
}

/**
 * SHA-256 of a file, hex.
 * @throws UserError if it cannot be read
 */
export async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256')
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  } catch (error) {
    throw new UserError(`${path}: cannot be read (${(error as Error).message})`, { cause: error })
  }
  return hash.digest('hex')
}

/** Pieces of a file that may be far larger than memory is worth reading, and their bytes. */
const PIECES = 1024
const PIECE_BYTES = 4096

/** SHA-256 of a file's size and of 1,024 pieces at even distances (all of it up to 4 MiB), hex. */
export async function sampleHash(path: string): Promise<string> {
  const handle = await open(path)
  try {
    const { size } = await handle.stat()
    const hash = createHash('sha256').update(`${size}\n`)
    const piece = new Uint8Array(PIECE_BYTES)
    const count = Math.min(PIECES, Math.ceil(size / PIECE_BYTES))
    for (let i = 0; i < count; i++) {
      const at = Math.floor((i * size) / count)
      const { bytesRead } = await handle.read(piece, 0, PIECE_BYTES, at)
      hash.update(piece.subarray(0, bytesRead))
    }
    return hash.digest('hex')
  } finally {
    await handle.close()
  }
}
