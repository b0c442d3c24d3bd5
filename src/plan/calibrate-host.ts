// Measures the host for predict.ts: folds and copies on one thread, reads from the page cache, reads
// from a disk. The device's operations are measured in calibrate.ts.

import { constants } from 'node:fs'
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import type { Noise } from '../noise/distributions.ts'
import type { Change } from '../noise/factors.ts'
import { createNoiseKernel } from '../noise/wasm.ts'
import type { Rates } from './predict.ts'
import { asUserError } from '../io/read.ts'
import { fillSynthetic } from '../checkpoint/synthetic.ts'
import { minOf } from '../util/extremes.ts'

const RUNS = 6
const ELEMENTS = 2 ** 19
const FILE_BYTES = 2 ** 26
const CHUNK_BYTES = 2 ** 23
const PAGE_BYTES = 2 ** 16
const ROW_BYTES = 4096
const ROW_READS = 256
/** A file shorter than this says nothing of its disk. */
export const DISK_BYTES = 2 ** 28
/** Reads in flight, as many as a stream of slabs has. */
const LANES = 3

export type HostRates = Pick<
  Rates,
  'fold' | 'foldTerm' | 'syntheticRate' | 'cachedRate' | 'rowReadMs'
>

/** Rates of this process's threads and page cache; a file in `dir` comes and goes. */
export async function calibrateHost(dir: string, noise: Noise): Promise<HostRates> {
  return { ...folds(noise), ...(await withFile(dir, FILE_BYTES, cachedReads)) }
}

function folds(noise: Noise) {
  const kernel = createNoiseKernel()
  const [raw, out] = [new Uint8Array(2 * ELEMENTS), new Float32Array(ELEMENTS)]
  const least = (run: () => void) => {
    const times = Array.from({ length: RUNS }, () => {
      const started = performance.now()
      run()
      return performance.now() - started
    })
    return minOf(times)
  }
  const fold = (updates: number) => {
    const term = { k0: 1, k1: 2, coefficient: 2 ** -12, decay: 1 }
    const terms = new Array(updates).fill(term)
    const change: Change = { kind: 'dense', noise, terms }
    return least(() => kernel.change(raw, 'F16', 0, 1024, change, out))
  }
  const [none, two] = [fold(0), fold(2)]
  const slab = new Uint8Array(FILE_BYTES)
  return {
    fold: (1e6 * none) / ELEMENTS,
    foldTerm: (1e6 * Math.max(0, two - none)) / (2 * ELEMENTS),
    syntheticRate: (1000 * FILE_BYTES) / least(() => fillSynthetic(0, slab)),
  }
}

/** Bytes per second of one reader, and ms of a small read among many, of what is in the page cache. */
async function cachedReads(path: string) {
  const handle = await open(path, 'r')
  try {
    const into = new Uint8Array(FILE_BYTES)
    const times: number[] = []
    for (let i = 0; i < RUNS; i++) {
      const started = performance.now()
      await handle.read(into, 0, FILE_BYTES, 0)
      times.push(performance.now() - started)
    }
    const started = performance.now()
    await Promise.all(
      Array.from({ length: ROW_READS }, (_, i) =>
        handle.read(into, i * ROW_BYTES, ROW_BYTES, i * PAGE_BYTES),
      ),
    )
    const rowReadMs = (performance.now() - started) / ROW_READS
    return { cachedRate: (1000 * FILE_BYTES) / minOf(times), rowReadMs }
  } finally {
    await handle.close()
  }
}

/** Bytes per second past the page cache: of `file` if it is one of DISK_BYTES or more, or of `dir`. */
export function measureDisk(file: string | undefined, dir: string): Promise<number> {
  return file === undefined ? withFile(dir, DISK_BYTES, directReads) : directReads(file)
}

/** Several large reads at a time; direct where the system has such reads. */
async function directReads(path: string): Promise<number> {
  // Node leaves the flag out where there is none, whatever its types say.
  const direct = (constants.O_DIRECT as number | undefined) ?? 0
  const handle = await open(path, constants.O_RDONLY | direct).catch(() => open(path, 'r'))
  try {
    let at = 0
    const lane = async () => {
      // Direct reads want memory that begins on a page: WebAssembly's does.
      const pages = CHUNK_BYTES / PAGE_BYTES
      const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
      const into = new Uint8Array(memory.buffer)
      while (at < DISK_BYTES) {
        const position = at
        at += CHUNK_BYTES
        await handle.read(into, 0, CHUNK_BYTES, position)
      }
    }
    const started = performance.now()
    await Promise.all(Array.from({ length: LANES }, lane))
    return (1000 * DISK_BYTES) / (performance.now() - started)
  } finally {
    await handle.close()
  }
}

/** Lends a file of `bytes` that is on the disk. */
async function withFile<T>(
  dir: string,
  bytes: number,
  use: (path: string) => Promise<T>,
): Promise<T> {
  const own = await mkdtemp(join(dir, 'reads-')).catch((error: unknown) => {
    throw asUserError(error, `${dir}: cannot be measured`)
  })
  try {
    const path = join(own, 'file')
    const handle = await open(path, 'wx')
    try {
      await fill(handle, bytes)
    } catch (error) {
      throw asUserError(error, `${dir}: cannot be measured`)
    } finally {
      await handle.close()
    }
    return await use(path)
  } finally {
    await rm(own, { recursive: true, force: true })
  }
}

async function fill(handle: FileHandle, bytes: number): Promise<void> {
  // Not zeros, which some file systems do not keep.
  const chunk = new Uint8Array(CHUNK_BYTES).map((_, i) => (i * 167) >> 3)
  for (let at = 0; at < bytes; at += CHUNK_BYTES) await handle.write(chunk, 0, CHUNK_BYTES, at)
  await handle.sync()
}
