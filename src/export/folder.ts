// Writes the trained weights as a Hugging Face folder: base + trajectory, tile by tile, in bounded
// memory, by the fold threads. Final models, checkpoints and `zo2 export` are all made here.

import type { Engine } from '../engine/engine.ts'
import {
  buildFolder,
  convertChecked,
  copyModelFiles,
  setConfigDtype,
  withoutTiedHead,
} from '../checkpoint/convert.ts'
import { writeShardedSafetensors } from '../checkpoint/safetensors-writer.ts'
import { tilesOf } from '../../scheduler/tiles.ts'
import type { Checkpoint, TensorEntry } from '../checkpoint/types.ts'
import type { DType } from '../util/dtypes.ts'

/** Tiles made ahead of the one being written: keeps two fold threads busy. */
const TILES_AHEAD = 4

export interface ExportOptions {
  readonly dtype: DType
  /**
   * Whose small files, tensor names and tied head the folder gets, if not those of the engine's own
   * checkpoint: a resumed run's base, because a saved checkpoint may be gone by now.
   */
  readonly layout?: Checkpoint
  /** Further small files of the folder; written before it appears. */
  readonly extra?: (folder: string) => Promise<void>
  readonly onProgress?: (doneElements: number, totalElements: number) => void
}

/**
 * Writes `outDir` (absent or empty) with config, tokenizer and all updates made so far. It appears
 * whole or not at all.
 */
export async function exportModel(engine: Engine, outDir: string, options: ExportOptions) {
  const { model } = engine.options
  const checkpoint = options.layout ?? engine.options.checkpoint
  const { entries, metadata } = withoutTiedHead(checkpoint)
  // The checkpoint's names stay; the model's own names find tiles and noise.
  const own = new Map<string, string>()
  for (const { name } of [...model.tables, ...model.matrices, ...model.vectors]) {
    for (const alias of model.aliases(name)) if (!own.has(alias)) own.set(alias, name)
  }
  const kept = entries.filter((entry) => own.has(entry.name))
  const total = kept.reduce((sum, e) => sum + e.shape.reduce((n, d) => n * d, 1), 0)
  let done = 0
  // One set of buffers for all tiles: garbage of this size is collected far too late.
  const ring = Array.from({ length: TILES_AHEAD + 1 }, () => new SharedArrayBuffer(tileBytes(kept)))
  await buildFolder(outDir, async (folder) => {
    await copyModelFiles(checkpoint, folder)
    await setConfigDtype(folder, options.dtype)
    await options.extra?.(folder)
    await writeShardedSafetensors(
      folder,
      kept.map(({ name, shape }) => ({ name, shape, dtype: options.dtype })),
      async (index, sink) => {
        const entry = kept[index]!
        const { name, shape } = entry
        for await (const values of valuesOf(engine, own.get(name)!, shape, ring)) {
          const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
          await sink.write(convertChecked(bytes, { ...entry, dtype: 'F32' }, options.dtype))
          options.onProgress?.((done += values.length), total)
        }
      },
      { metadata },
    )
  })
}

/** Bytes of the largest tile in f32. */
function tileBytes(entries: readonly TensorEntry[]): number {
  const sizes = entries
    .filter(({ shape }) => shape.length === 2)
    .map(({ shape }) => tilesOf(shape[0]!, shape[1]!)[0]!.rows * shape[1]! * 4)
  return sizes.reduce((most, size) => Math.max(most, size), 0)
}

/** The tensor's trained values in row order, a tile at a time; valid until the next is asked for. */
async function* valuesOf(
  engine: Engine,
  name: string,
  shape: readonly number[],
  ring: readonly SharedArrayBuffer[],
): AsyncGenerator<Float32Array> {
  const vector = engine.vectors.values.get(name)
  if (vector) {
    yield vector
    return
  }
  const { store, state } = engine
  const change = state.change(name)
  const tiles = tilesOf(shape[0]!, shape[1]!)
  const made: Promise<Float32Array>[] = []
  try {
    for (let i = 0; i < tiles.length; i++) {
      while (made.length < tiles.length && made.length <= i + TILES_AHEAD) {
        const memory = ring[made.length % ring.length]!
        const next = store.materialise(name, tiles[made.length]!, change, memory)
        next.catch(() => {}) // thrown where it is awaited below
        made.push(next)
      }
      yield await made[i]!
    }
  } finally {
    await Promise.allSettled(made)
  }
}
