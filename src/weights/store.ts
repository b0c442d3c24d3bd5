// The weights of a run: immutable base files plus the overlay, copies in f32 or f16 with updates folded in.
// The overlay is scratch: in memory while it fits --ram, else in a file without a name; it is never
// part of a checkpoint and always rebuildable from base and journal. Files that the page cache cannot
// hold are read past it, but for leading tensors (page-cache.ts). What the updates are is the methods'
// business, when to fold is the step's.

import { constants } from 'node:fs'
import { open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Tile } from '../device/device.ts'
import { UserError } from '../util/errors.ts'
import { noiseKey } from '../noise/threefry.ts'
import { changeOfRows, isNoChange, NO_CHANGE, type Change } from '../noise/factors.ts'
import { formatBytes } from '../util/units.ts'
import { BLOCK_BYTES, createLanes, openDirect, type Lanes } from '../io/direct.ts'
import { asUserError, readRange, type OpenFile } from '../io/read.ts'
import { openFiles, type WeightFiles } from '../checkpoint/files.ts'
import { createFoldPool, type FoldPool } from './fold.ts'
import type { Place } from './fold-worker.ts'
import { cacheRoomBytes, createCacheShare, fitsPageCache } from './page-cache.ts'
import { isSynthetic } from '../checkpoint/synthetic.ts'
import { type TensorEntry } from '../checkpoint/types.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

/** A two-dimensional tensor of the run, with the tiles it is folded in. */
interface StoredMatrix {
  readonly name: string
  readonly cols: number
  readonly tiles: readonly Tile[]
  readonly entry: TensorEntry
  /** False: frozen; it is never folded and has no place in the overlay. */
  readonly trains: boolean
}

export interface WeightStore {
  /** Changes whenever the tensor's bytes do: 0 is the base. */
  version(name: string): number
  dtype(name: string): DType
  /**
   * Fills `into` with rows from row0 of the tensor; waits for a fold of these rows to end. `once`:
   * they stay where they go, so that the page cache need not keep them.
   */
  read(name: string, row0: number, into: Uint8Array, once?: boolean): Promise<void>
  /**
   * Folds changes into the matrices that have some, in the background and in the order given at
   * opening. A failure surfaces at the next read.
   */
  fold(changeOf: (name: string) => Change): Promise<void>
  /** Resolves, never rejects, once what is being folded in memory is there; at once if the overlay is a file. */
  foldedInMemory(): Promise<void>
  /** The tile's weights as f32 after a further `change`, made by a fold thread in `memory`. */
  materialise(
    name: string,
    tile: Tile,
    change: Change,
    memory: SharedArrayBuffer,
  ): Promise<Float32Array>
  close(): Promise<void>
}

/** How the overlay keeps weights: f16 is rounded stochastically by noise of the run's `seed`. */
interface OverlayOptions {
  readonly overlayDtype: 'float32' | 'float16'
  readonly seed: number
}

export const overlayBytes = ({ overlayDtype }: Pick<OverlayOptions, 'overlayDtype'>) =>
  overlayDtype === 'float16' ? 2 : 4

export interface StoreOptions extends OverlayOptions {
  /** In the order of their use. */
  readonly matrices: readonly StoredMatrix[]
  /** The overlay stays in memory up to this many bytes. */
  readonly ramBytes: number
  /** Folder of the scratch file. */
  readonly scratchDir: string
  readonly threads: number
  /** Bytes that the page cache can hold; what the system says now if left out. */
  readonly cacheRoomBytes?: number
}

/** Smaller reads are rows of an embedding, of which the same ones come again and again. */
const LEAST_DIRECT_BYTES = 2 ** 18

interface Stored extends StoredMatrix {
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

export async function openStore(options: StoreOptions): Promise<WeightStore> {
  const stored = new Map<string, Stored>()
  let [totalBytes, scratchBytes] = [0, 0]
  for (const m of options.matrices) {
    const own = { memory: null, version: 0, ready: [], once: false, past: false }
    stored.set(m.name, { ...m, ...own, scratchAt: scratchBytes })
    if (!m.trains) continue
    const bytes = elementsOf(m) * overlayBytes(options)
    totalBytes += bytes
    scratchBytes += Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES
  }
  const lanes = createLanes()
  const tier = tierOf(options, [...stored.values()], totalBytes)
  const paths = options.matrices.map((m) => m.entry.file)
  const files = await openFiles(paths, tier.basePast ? lanes : undefined)
  return createStore(options, files, lanes, stored, tier, scratchBytes)
}

const elementsOf = (m: StoredMatrix) => m.entry.bytes / DTYPE_BYTES[m.entry.dtype]

interface StoreTier {
  readonly inMemory: boolean
  readonly roomBytes: number
  /** Whether the base files, or the scratch file, are more than the page cache can hold. */
  readonly basePast: boolean
  readonly scratchPast: boolean
}

function tierOf(
  options: StoreOptions,
  matrices: readonly StoredMatrix[],
  totalBytes: number,
): StoreTier {
  const inMemory = totalBytes <= options.ramBytes
  const bytesOf = (some: readonly StoredMatrix[]) =>
    some.reduce((sum, { entry }) => sum + (isSynthetic(entry.file) ? 0 : entry.bytes), 0)
  const roomBytes = (options.cacheRoomBytes ?? cacheRoomBytes()) - (inMemory ? totalBytes : 0)
  const frozen = bytesOf(matrices.filter((m) => !m.trains))
  return {
    inMemory,
    roomBytes,
    basePast: !fitsPageCache(bytesOf(matrices), roomBytes),
    scratchPast: !inMemory && !fitsPageCache(totalBytes + frozen, roomBytes),
  }
}

function createStore(
  options: StoreOptions,
  files: WeightFiles,
  lanes: Lanes,
  stored: ReadonlyMap<string, Stored>,
  { inMemory, roomBytes, basePast, scratchPast }: StoreTier,
  scratchBytes: number,
): WeightStore {
  let pool: FoldPool | null = null
  let scratch: OpenFile | null = null
  const size = overlayBytes(options)
  const share = createCacheShare(roomBytes)

  const get = (name: string): Stored => {
    const m = stored.get(name)
    if (!m) throw new Error(`${name} is not a matrix of this run`)
    return m
  }
  const basePasses = (m: Stored) =>
    basePast && (m.once || !share.keeps(`base ${m.name}`, m.entry.bytes))
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
  /** Where the tensor's current bytes are, from element `first` on. */
  const currentPlace = (m: Stored, first: number): Place => {
    if (m.version > 0) return overlayPlace(m, first)
    const { file: path, dtype } = m.entry
    const offsetBytes = m.entry.offsetBytes + first * DTYPE_BYTES[dtype]
    if (isSynthetic(path)) return { synthetic: true, offsetBytes }
    const { fd, ...direct } = files.descriptors(path)
    return { fd, ...(basePasses(m) && direct), path, offsetBytes }
  }
  const dtypeOf = (m: Stored): DType =>
    m.version === 0 ? m.entry.dtype : size === 2 ? 'F16' : 'F32'

  /** Queues one tile: source -> change -> target, after whatever the tile waits for already. */
  const foldTile = async (m: Stored, i: number, change: Change, target: Place | null) => {
    const { row0, rows } = m.tiles[i]!
    const first = row0 * m.cols
    // Decided now, not when the tile's turn comes: `version` moves on as soon as all are queued.
    const [source, dtype] = [currentPlace(m, first), dtypeOf(m)]
    const to = target ?? overlayPlace(m, first)
    // Folds of a tensor are counted: the same ones come at the same updates in every replay.
    const rounding = !target && size === 2 && noiseKey(options.seed, m.version, m.name, 'round')
    pool ??= createFoldPool(options.threads)
    await m.ready[i]
    const own = changeOfRows(change, row0, rows)
    const count = rows * m.cols
    await pool.fold({
      source,
      dtype,
      first,
      count,
      cols: m.cols,
      change: own,
      target: to,
      ...(rounding && { rounding }),
    })
  }

  return {
    version: (name) => get(name).version,
    dtype: (name) => dtypeOf(get(name)),

    async read(name, row0, into, once = false) {
      const m = get(name)
      const large = into.byteLength >= LEAST_DIRECT_BYTES
      if (large) m.once = once
      if (m.version === 0) {
        const at = row0 * m.cols * DTYPE_BYTES[m.entry.dtype]
        return files.read(m.entry, at, into, large && basePasses(m))
      }
      const rows = into.byteLength / (size * m.cols)
      await Promise.all(
        m.tiles.flatMap((t, i) =>
          t.row0 < row0 + rows && t.row0 + t.rows > row0 ? [m.ready[i]] : [],
        ),
      )
      const at = row0 * m.cols * size
      if (m.memory) into.set(new Uint8Array(m.memory, at, into.byteLength))
      else await readRange(scratch!, m.scratchAt + at, into, m.past ? lanes : undefined)
    },

    async fold(changeOf) {
      if (!inMemory) scratch ??= await openScratch(options.scratchDir, scratchBytes)
      for (const m of stored.values()) {
        const change = m.trains ? changeOf(m.name) : NO_CHANGE
        if (isNoChange(change)) continue
        if (inMemory) m.memory ??= new SharedArrayBuffer(elementsOf(m) * size)
        if (m.version === 0) m.past = scratchPasses(m)
        const jobs = m.tiles.map((_, i) => foldTile(m, i, change, null))
        jobs.forEach((job, i) => {
          job.catch(() => {}) // surfaces at the tile's next read
          m.ready[i] = job
        })
        if (m.version++ === 0) share.release(`base ${m.name}`)
      }
    },

    async foldedInMemory() {
      if (inMemory) await Promise.allSettled([...stored.values()].flatMap((m) => m.ready))
    },

    async materialise(name, tile, change, memory) {
      const m = get(name)
      await foldTile(
        m,
        m.tiles.findIndex((t) => t.row0 === tile.row0),
        change,
        { memory, offsetBytes: 0 },
      )
      return new Float32Array(memory, 0, tile.rows * m.cols)
    },

    async close() {
      await pool?.close()
      await Promise.allSettled([...stored.values()].flatMap((m) => m.ready))
      await scratch?.direct?.close()
      await scratch?.handle.close()
      await files.close()
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
