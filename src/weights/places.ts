// Where the bytes of a run's matrices lie: in the base file until a matrix is folded, then in the
// overlay, which is in memory while it fits --ram, else in a scratch file without a name. Files that
// the page cache cannot hold are read past it, but for leading tensors (page-cache.ts). When a
// tile's folded bytes are there is store.ts's matter.

import { constants } from 'node:fs'
import { open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Tile } from '../device/device.ts'
import type { WeightFiles } from '../checkpoint/files.ts'
import { isSynthetic } from '../checkpoint/synthetic.ts'
import { fileBytes, type TensorEntry } from '../checkpoint/types.ts'
import { BLOCK_BYTES, openDirect, type DirectReader } from '../io/direct.ts'
import { asUserError, readRange, type OpenFile } from '../io/read.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import { formatBytes } from '../util/units.ts'
import type { Place } from './fold-worker.ts'
import { cacheRoomBytes, createCacheShare, fitsPageCache } from './page-cache.ts'

/** A two-dimensional tensor of the run, with the tiles it is folded in. */
export interface StoredMatrix {
  readonly name: string
  readonly cols: number
  readonly tiles: readonly Tile[]
  readonly entry: TensorEntry
  /** False: frozen; it is never folded and has no place in the overlay. */
  readonly trains: boolean
}

export interface Stored extends StoredMatrix {
  /** First byte of this tensor in the scratch file: a block's. */
  readonly scratchAt: number
  memory: SharedArrayBuffer | null
  /** Folds so far. */
  version: number
  /** One promise per tile: the tile's overlay bytes are there. */
  readonly ready: Promise<void>[]
  /** Whether it stayed where it was last read to. */
  once: boolean
  /** Whether its part of the scratch file is read and written past the page cache: all of it, always. */
  past: boolean
}

/** Elements of a matrix, from its bytes in the file. */
export const elementsOf = (m: StoredMatrix) => m.entry.bytes / DTYPE_BYTES[m.entry.dtype]

/** Smaller reads are rows of an embedding, of which the same ones come again and again. */
const LEAST_DIRECT_BYTES = 2 ** 18

/** Whether a read is large enough to go past the page cache. */
export const isLarge = (into: Uint8Array) => into.byteLength >= LEAST_DIRECT_BYTES

interface StoreTier {
  readonly inMemory: boolean
  readonly roomBytes: number
  /** Whether the base files, or the scratch file, are more than the page cache can hold. */
  readonly basePast: boolean
  readonly scratchPast: boolean
}

/** `overlayBytes` of overlay in all, of which `ramBytes` may lie in memory. */
export function storeTier(
  matrices: readonly StoredMatrix[],
  overlayBytes: number,
  ramBytes: number,
  cacheBytes = cacheRoomBytes(),
): StoreTier {
  const inMemory = overlayBytes <= ramBytes
  const bytesOf = (some: readonly StoredMatrix[]) =>
    some.reduce((sum, { entry }) => sum + (isSynthetic(entry.file) ? 0 : fileBytes(entry)), 0)
  const roomBytes = cacheBytes - (inMemory ? overlayBytes : 0)
  const frozen = bytesOf(matrices.filter((m) => !m.trains))
  return {
    inMemory,
    roomBytes,
    basePast: !fitsPageCache(bytesOf(matrices), roomBytes),
    scratchPast: !inMemory && !fitsPageCache(overlayBytes + frozen, roomBytes),
  }
}

export interface Places {
  /** Whether the overlay is in memory. */
  readonly inMemory: boolean
  /** Element type of the matrix's current bytes. */
  dtype(m: Stored): DType
  /** Where the overlay's bytes are, from element `first` of the matrix on. */
  overlay(m: Stored, first: number): Place
  /** Where the matrix's current bytes are, from element `first` on. */
  current(m: Stored, first: number): Place
  /** Fills `into` with current bytes from row row0 on. */
  read(m: Stored, row0: number, into: Uint8Array): Promise<void>
  /** Opens the scratch file if one is needed, before the first fold. */
  open(): Promise<void>
  /** Gives the matrix its place in the overlay, before it is folded. */
  prepare(m: Stored): void
  /** The matrix's bytes in the base file are not read any more. */
  leaveBase(m: Stored): void
  close(): Promise<void>
}

/** @param overlay bytes of its elements and, where it does not fit into memory, its file */
export function createPlaces(
  files: WeightFiles,
  reader: DirectReader,
  { inMemory, roomBytes, basePast, scratchPast }: StoreTier,
  overlay: { elementBytes: number; dir: string; bytes: number },
): Places {
  let scratch: OpenFile | null = null
  const size = overlay.elementBytes
  const share = createCacheShare(roomBytes)

  const basePasses = (m: Stored) =>
    basePast && (m.once || !share.keeps(`base ${m.name}`, fileBytes(m.entry)))
  /** Directly only if every tile begins and ends with a block: no block is then written both ways. */
  const scratchPasses = (m: Stored) =>
    scratchPast &&
    m.tiles.every((tile) => (tile.rows * m.cols * size) % BLOCK_BYTES === 0) &&
    (m.once || !share.keeps(`folded ${m.name}`, elementsOf(m) * size))

  const overlayPlace = (m: Stored, first: number): Place => {
    if (m.memory) return { memory: m.memory, offsetBytes: first * size }
    const { path, handle, direct } = scratch!
    const offsetBytes = m.scratchAt + first * size
    return { fd: handle.fd, ...(m.past && direct && { directFd: direct.fd }), path, offsetBytes }
  }

  return {
    inMemory,
    dtype: (m) => (m.version === 0 ? m.entry.dtype : size === 2 ? 'F16' : 'F32'),
    overlay: overlayPlace,
    current(m, first) {
      if (m.version > 0) return overlayPlace(m, first)
      const { file: path, dtype, encoding } = m.entry
      const within = first * DTYPE_BYTES[dtype]
      const offsetBytes = m.entry.offsetBytes + within
      if (isSynthetic(path)) return { synthetic: true, offsetBytes }
      const { fd, ...direct } = files.descriptors(path)
      const file = { fd, ...(basePasses(m) && direct), path }
      return encoding ? { ...file, offsetBytes: within, encoding } : { ...file, offsetBytes }
    },
    async read(m, row0, into) {
      if (m.version === 0) {
        const at = row0 * m.cols * DTYPE_BYTES[m.entry.dtype]
        return files.read(m.entry, at, into, isLarge(into) && basePasses(m))
      }
      const at = row0 * m.cols * size
      if (m.memory) into.set(new Uint8Array(m.memory, at, into.byteLength))
      else await readRange(scratch!, m.scratchAt + at, into, m.past ? reader : undefined)
    },
    async open() {
      if (!inMemory) scratch ??= await openScratch(overlay.dir, overlay.bytes)
    },
    prepare(m) {
      if (inMemory) m.memory ??= new SharedArrayBuffer(elementsOf(m) * size)
      if (m.version === 0) m.past = scratchPasses(m)
    },
    leaveBase: (m) => share.release(`base ${m.name}`),
    async close() {
      await scratch?.direct?.close()
      await scratch?.handle.close()
    },
  }
}

/** A file of `bytes` (sparse) whose name is gone at once, so that a killed run leaves nothing behind. */
async function openScratch(dir: string, bytes: number): Promise<OpenFile> {
  const disk = await statfs(dir)
  const free = disk.bavail * disk.bsize
  if (free < bytes) {
    throw new UserError(
      `${dir}: the folded weights need ${formatBytes(bytes)} of disk, ${formatBytes(free)} are free; free some, name another folder with --scratch-dir, or keep them in memory with --ram ${formatBytes(bytes, 'up').replace(' ', '')}`,
    )
  }
  const path = join(dir, `.zo2-overlay-${process.pid}-${Date.now()}`)
  const own = (error: unknown): never => {
    throw asUserError(
      error,
      `${dir}: the folded weights' ${formatBytes(bytes)} cannot be kept there`,
    )
  }
  const handle = await open(path, 'wx+', 0o600).catch(own)
  let direct: OpenFile['direct'] = null
  try {
    direct = await openDirect(path, constants.O_RDWR).catch(own)
    await rm(path)
    await handle.truncate(bytes).catch(own)
    return { path: 'the scratch file', handle, direct }
  } catch (error) {
    await direct?.close()
    await handle.close()
    throw error
  }
}
