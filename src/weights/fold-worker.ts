// One thread that folds updates into weights: reads a run of a slab, applies the terms, writes f32,
// or f16 rounded stochastically, to the overlay. Synchronous file calls on purpose: this thread has
// nothing else to do. They go past the page cache where a place has a descriptor for that.

import { readSync, writeSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import type { Change } from '../noise/factors.ts'
import type { NoiseKey } from '../noise/threefry.ts'
import { createNoiseKernel } from '../noise/wasm.ts'
import { alignedBytes, BLOCK_BYTES, blocksAround, isRefusal } from '../io/direct.ts'
import { widen, type Encoding } from '../checkpoint/gguf/widen.ts'
import { fillSynthetic } from '../checkpoint/synthetic.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

/** A position of a file; directFd: the same file past the page cache. */
interface FilePlace {
  readonly fd: number
  readonly directFd?: number
  readonly path: string
  readonly offsetBytes: number
  /** The offset is then one of the tensor's bytes, which are made of those of the file. */
  readonly encoding?: Encoding
}

/** A place for bytes: a file position, shared memory, or a synthetic checkpoint. */
export type Place =
  | FilePlace
  | { readonly memory: SharedArrayBuffer; readonly offsetBytes: number }
  | { readonly synthetic: true; readonly offsetBytes: number }

/** `change` applied to `count` elements from element index `first`, from `source` to `target`. */
export interface FoldJob {
  readonly source: Place
  readonly dtype: DType
  readonly first: number
  readonly count: number
  /** Columns of the matrix. */
  readonly cols: number
  readonly change: Change
  readonly target: Place
  /** By what the result is rounded to f16; absent: it stays f32. */
  readonly rounding?: NoiseKey
}

/** null, or what went wrong; `code` is the system's (ENOSPC). */
export type FoldReply = { message: string; code?: string | undefined } | null

const STEP_ELEMENTS = 2 ** 18
const kernel = createNoiseKernel()
const raw = new Uint8Array(STEP_ELEMENTS * 4)
const blocks = alignedBytes(STEP_ELEMENTS * 4 + 2 * BLOCK_BYTES)
const folded = new Float32Array(alignedBytes(STEP_ELEMENTS * 4).buffer)
const rounded = new Uint16Array(alignedBytes(STEP_ELEMENTS * 2).buffer)

parentPort!.on('message', (job: FoldJob) => {
  let reply: FoldReply = null
  try {
    fold(job)
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException
    reply = { message, code }
  }
  parentPort!.postMessage(reply)
})

function fold(job: FoldJob): void {
  const size = DTYPE_BYTES[job.dtype]
  const room = job.rounding ? rounded : folded
  const width = room.BYTES_PER_ELEMENT
  for (let i = 0; i < job.count; i += STEP_ELEMENTS) {
    const n = Math.min(STEP_ELEMENTS, job.count - i)
    const [source, sourceAt] = workspace(job.source, i * size, raw.buffer)
    const [target, targetAt] = workspace(job.target, i * width, room.buffer)
    const e = job.rounding ? folded.subarray(0, n) : new Float32Array(target, targetAt, n)
    const bytes = new Uint8Array(source, sourceAt, n * size)
    transfer(job.source, i * size, bytes, 'read')
    // A run that is folded where it lies is read before it is written.
    kernel.change(bytes, job.dtype, job.first + i, job.cols, job.change, e)
    if (job.rounding) {
      kernel.roundHalf(e, job.first + i, job.rounding, new Uint16Array(target, targetAt, n))
    }
    transfer(job.target, i * width, new Uint8Array(target, targetAt, n * width), 'write')
  }
}

/** Where a place's bytes from `atBytes` on are worked with: where they are if that is memory, else in `room`. */
const workspace = (place: Place, atBytes: number, room: ArrayBufferLike) =>
  'memory' in place ? ([place.memory, place.offsetBytes + atBytes] as const) : ([room, 0] as const)

/** Between a place and its workspace. */
function transfer(place: Place, atBytes: number, bytes: Uint8Array, way: 'read' | 'write'): void {
  if ('memory' in place) return
  const offset = place.offsetBytes + atBytes
  if ('synthetic' in place) return fillSynthetic(offset, bytes)
  if (place.encoding === undefined) return transferRaw(place, offset, bytes, way)
  for (const raw of widen(place.encoding, offset, bytes)) {
    transferRaw(place, raw.at, raw.bytes, 'read')
  }
}

/** Between a position of a file and a workspace. */
function transferRaw(
  place: FilePlace,
  offset: number,
  bytes: Uint8Array,
  way: 'read' | 'write',
): void {
  for (let done = way === 'read' ? readDirect(place, offset, bytes) : 0; done < bytes.length;) {
    const [at, left] = [offset + done, bytes.length - done]
    const moved =
      way === 'read'
        ? readSync(place.fd, bytes, done, left, at)
        : writePart(place, bytes, done, left, at)
    if (moved === 0)
      throw new Error(`${place.path}: expected ${left} more bytes at ${at}, found its end`)
    done += moved
  }
}

/** Bytes from the front that could be read directly; none where that is refused. */
function readDirect({ directFd }: FilePlace, offset: number, bytes: Uint8Array): number {
  if (directFd === undefined) return 0
  const { first, skip, length } = blocksAround(offset, bytes.length)
  if (length > blocks.length) return 0
  const moved = unlessRefused(() => readSync(directFd, blocks, 0, length, first)) ?? 0
  const got = Math.min(Math.max(0, moved - skip), bytes.length)
  bytes.set(blocks.subarray(skip, skip + got))
  return got
}

function writePart(place: FilePlace, bytes: Uint8Array, done: number, left: number, at: number) {
  const { fd, directFd } = place
  const whole = at % BLOCK_BYTES === 0 && left % BLOCK_BYTES === 0
  const moved =
    directFd !== undefined && whole
      ? unlessRefused(() => writeSync(directFd, bytes, done, left, at))
      : undefined
  return moved ?? writeSync(fd, bytes, done, left, at)
}

/** What a direct call returns; undefined where it is refused. */
function unlessRefused(call: () => number): number | undefined {
  try {
    return call()
  } catch (error) {
    if (isRefusal(error)) return undefined
    throw error
  }
}
