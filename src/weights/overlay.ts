// The weights of a run: immutable base files plus the overlay, copies in f32 or f16 with updates folded in.
// The overlay is scratch: in memory while it fits --ram, else in a file without a name; it is never
// part of a checkpoint and always rebuildable from base and journal. What the updates are is the
// methods' business, when to fold is the step's.

import { open, rm, statfs, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import type { Tile } from '../device/device.ts'
import { UserError } from '../errors.ts'
import { noiseKey } from '../noise/threefry.ts'
import { changeOfRows, isNoChange, NO_CHANGE, type Change } from '../noise/factors.ts'
import { formatBytes } from '../units.ts'
import { asUserError, openFiles, readFully, type WeightFiles } from './files.ts'
import { createFoldPool, type FoldPool } from './fold.ts'
import type { Place } from './fold-worker.ts'
import { isSynthetic } from './synthetic.ts'
import { DTYPE_BYTES, type DType, type TensorEntry } from './types.ts'

/** A two-dimensional tensor of the run, with the tiles it is folded in. */
export interface StoredMatrix {
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
  /** Fills `into` with rows from row0 of the tensor; waits for a fold of these rows to end. */
  read(name: string, row0: number, into: Uint8Array): Promise<void>
  /**
   * Folds changes into the matrices that have some, in the background and in the order given at
   * opening. A failure surfaces at the next read.
   */
  fold(changeOf: (name: string) => Change): Promise<void>
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
export interface OverlayOptions {
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
}

interface Stored extends StoredMatrix {
  /** First byte of this tensor in the overlay file. */
  readonly overlayBytes: number
  memory: SharedArrayBuffer | null
  /** Folds so far. */
  version: number
  /** One promise per tile: the tile's overlay bytes are there. */
  readonly ready: Promise<void>[]
}

export async function openStore(options: StoreOptions): Promise<WeightStore> {
  const files = await openFiles(options.matrices.map((m) => m.entry.file))
  const stored = new Map<string, Stored>()
  let totalBytes = 0
  for (const m of options.matrices) {
    stored.set(m.name, { ...m, overlayBytes: totalBytes, memory: null, version: 0, ready: [] })
    if (m.trains) totalBytes += elementsOf(m) * overlayBytes(options)
  }
  const base = new Map<string, FileHandle>()
  try {
    for (const { entry } of options.matrices) {
      if (!base.has(entry.file) && !isSynthetic(entry.file))
        base.set(entry.file, await open(entry.file, 'r'))
    }
  } catch (error) {
    for (const handle of base.values()) await handle.close()
    await files.close()
    throw error
  }
  return createStore(options, files, base, stored, totalBytes)
}

const elementsOf = (m: StoredMatrix) => m.entry.bytes / DTYPE_BYTES[m.entry.dtype]

function createStore(
  options: StoreOptions,
  files: WeightFiles,
  base: ReadonlyMap<string, FileHandle>,
  stored: ReadonlyMap<string, Stored>,
  totalBytes: number,
): WeightStore {
  let pool: FoldPool | null = null
  let scratch: FileHandle | null = null
  const inMemory = totalBytes <= options.ramBytes
  const size = overlayBytes(options)

  const get = (name: string): Stored => {
    const m = stored.get(name)
    if (!m) throw new Error(`${name} is not a matrix of this run`)
    return m
  }
  const overlayPlace = (m: Stored, first: number): Place =>
    m.memory
      ? { memory: m.memory, offsetBytes: first * size }
      : { fd: scratch!.fd, path: 'the scratch file', offsetBytes: m.overlayBytes + first * size }

  /** Where the tensor's current bytes are, from element `first` on. */
  const currentPlace = (m: Stored, first: number): Place => {
    if (m.version > 0) return overlayPlace(m, first)
    const { file, dtype, offsetBytes } = m.entry
    if (isSynthetic(file)) {
      return { synthetic: true, offsetBytes: offsetBytes + first * DTYPE_BYTES[dtype] }
    }
    const { fd } = base.get(file)!
    return { fd, path: file, offsetBytes: offsetBytes + first * DTYPE_BYTES[dtype] }
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

    async read(name, row0, into) {
      const m = get(name)
      if (m.version === 0)
        return files.read(m.entry, row0 * m.cols * DTYPE_BYTES[m.entry.dtype], into)
      const rows = into.byteLength / (size * m.cols)
      await Promise.all(
        m.tiles.flatMap((t, i) =>
          t.row0 < row0 + rows && t.row0 + t.rows > row0 ? [m.ready[i]] : [],
        ),
      )
      const at = row0 * m.cols * size
      if (m.memory) into.set(new Uint8Array(m.memory, at, into.byteLength))
      else await readFully(scratch!, 'the scratch file', m.overlayBytes + at, into)
    },

    async fold(changeOf) {
      if (!inMemory) scratch ??= await openScratch(options.scratchDir, totalBytes)
      for (const m of stored.values()) {
        const change = m.trains ? changeOf(m.name) : NO_CHANGE
        if (isNoChange(change)) continue
        if (inMemory) m.memory ??= new SharedArrayBuffer(elementsOf(m) * size)
        const jobs = m.tiles.map((_, i) => foldTile(m, i, change, null))
        jobs.forEach((job, i) => {
          job.catch(() => {}) // surfaces at the tile's next read
          m.ready[i] = job
        })
        m.version++
      }
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
      await scratch?.close()
      for (const handle of base.values()) await handle.close()
      await files.close()
    },
  }
}

/** A file of `bytes` (sparse) whose name is gone at once, so that a killed run leaves nothing behind. */
async function openScratch(dir: string, bytes: number): Promise<FileHandle> {
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
  try {
    await rm(path)
    await handle.truncate(bytes).catch(own)
    return handle
  } catch (error) {
    await handle.close()
    throw error
  }
}
