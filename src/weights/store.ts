// The weights of a run: immutable base files plus the overlay, copies in f32 or f16 with updates folded in.
// The overlay is scratch, never part of a checkpoint and always rebuildable from base and journal.
// Where its bytes and those of the base lie is places.ts's matter; what is folded, and when, is decided by
// the methods (src/methods/dense.ts, factored.ts) and asked for by the step.

import type { Tile } from '../device/device.ts'
import { noiseKey } from '../noise/threefry.ts'
import { changeOfRows, isNoChange, NO_CHANGE, type Change } from '../noise/factors.ts'
import { BLOCK_BYTES, createDirectReader } from '../io/direct.ts'
import { openFiles, type WeightFiles } from '../checkpoint/files.ts'
import type { DType } from '../util/dtypes.ts'
import { createFoldPool, type FoldPool } from './fold-pool.ts'
import type { Place } from './fold-worker.ts'
import {
  createPlaces,
  elementsOf,
  isLarge,
  storeTier,
  type Places,
  type Stored,
  type StoredMatrix,
} from './places.ts'

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

/** Bytes of one element of the overlay. */
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

/**
 * Opens the base files of a run's matrices; the overlay is made at the first fold.
 * @throws UserError when a file cannot be opened
 */
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
  const reader = createDirectReader()
  const tier = storeTier([...stored.values()], totalBytes, options.ramBytes, options.cacheRoomBytes)
  const paths = options.matrices.map((m) => m.entry.file)
  const files = await openFiles(paths, tier.basePast ? reader : undefined)
  const places = createPlaces(files, reader, tier, {
    elementBytes: overlayBytes(options),
    dir: options.scratchDir,
    bytes: scratchBytes,
  })
  return createStore(options, files, places, stored)
}

function createStore(
  options: StoreOptions,
  files: WeightFiles,
  places: Places,
  stored: ReadonlyMap<string, Stored>,
): WeightStore {
  let pool: FoldPool | null = null
  const get = (name: string): Stored => {
    const m = stored.get(name)
    if (!m) throw new Error(`${name} is not a matrix of this run`)
    return m
  }

  /** Queues one tile: source -> change -> target, after whatever the tile waits for already. */
  const foldTile = async (m: Stored, i: number, change: Change, target: Place | null) => {
    const { row0, rows } = m.tiles[i]!
    const first = row0 * m.cols
    // Decided now, not when the tile's turn comes: `version` moves on as soon as all are queued.
    const [source, dtype] = [places.current(m, first), places.dtype(m)]
    const to = target ?? places.overlay(m, first)
    // Folds of a tensor are counted: the same ones come at the same updates in every replay.
    const isRounded = !target && options.overlayDtype === 'float16'
    const rounding = isRounded && noiseKey(options.seed, m.version, m.name, 'round')
    pool ??= createFoldPool(options.threads)
    await m.ready[i]
    await pool.fold({
      source,
      dtype,
      first,
      count: rows * m.cols,
      cols: m.cols,
      change: changeOfRows(change, row0, rows),
      target: to,
      ...(rounding && { rounding }),
    })
  }

  return {
    version: (name) => get(name).version,
    dtype: (name) => places.dtype(get(name)),

    async read(name, row0, into, once = false) {
      const m = get(name)
      if (isLarge(into)) m.once = once
      if (m.version > 0) {
        const end = row0 + into.byteLength / (overlayBytes(options) * m.cols)
        const isRead = (tile: Tile) => tile.row0 < end && tile.row0 + tile.rows > row0
        await Promise.all(m.ready.filter((_, i) => isRead(m.tiles[i]!)))
      }
      await places.read(m, row0, into)
    },

    async fold(changeOf) {
      await places.open()
      for (const m of stored.values()) {
        const change = m.trains ? changeOf(m.name) : NO_CHANGE
        if (isNoChange(change)) continue
        places.prepare(m)
        const jobs = m.tiles.map((_, i) => foldTile(m, i, change, null))
        jobs.forEach((job, i) => {
          job.catch(() => {}) // surfaces at the tile's next read
          m.ready[i] = job
        })
        if (m.version++ === 0) places.leaveBase(m)
      }
    },

    async foldedInMemory() {
      if (places.inMemory) await Promise.allSettled([...stored.values()].flatMap((m) => m.ready))
    },

    async materialise(name, tile, change, memory) {
      const m = get(name)
      const i = m.tiles.findIndex((t) => t.row0 === tile.row0)
      await foldTile(m, i, change, { memory, offsetBytes: 0 })
      return new Float32Array(memory, 0, tile.rows * m.cols)
    },

    async close() {
      await pool?.close()
      await Promise.allSettled([...stored.values()].flatMap((m) => m.ready))
      await places.close()
      await files.close()
    },
  }
}
