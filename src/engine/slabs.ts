// Slabs as one pass over the weights wants them: the bytes of the store with what the method says of
// them. On a device that multiplies f32 faster than it widens, a resident slab of a factored method,
// which every step uses as it is, is widened once, where its slot has the room (it has if folded f32
// weights may come into it). Reading and folding are the store's business (src/weights/store.ts).

import type { Slab } from '../../scheduler/plan.ts'
import type { SlabSource } from '../../scheduler/stream.ts'
import type { Engine } from './engine.ts'
import type { Recipe } from '../noise/distributions.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

const UNCHANGED = { terms: [], scales: [] }

/**
 * Source of all slabs, as probes see them.
 * @param recipeOf terms owed by a matrix, and its scale for each probe
 */
export function slabSource(engine: Engine, recipeOf: (name: string) => Recipe): SlabSource {
  const { device, model, store, kernel, options } = engine
  const transposed = new Set(model.matrices.filter((m) => m.transposed).map((m) => m.name))
  const bytesIn = (dtype: DType, { rows, cols }: Slab) => rows * cols * DTYPE_BYTES[dtype]
  const widens = device.prefersF32 && options.method.addend !== null
  /** The dtype that a slab is staged in. */
  const stagedAs = (slab: Slab): DType =>
    widens && slab.resident && slab.bytes >= bytesIn('F32', slab) ? 'F32' : store.dtype(slab.name)
  return {
    describe(slab) {
      const dtype = stagedAs(slab)
      return {
        bytes: bytesIn(dtype, slab),
        readBytes: bytesIn(store.dtype(slab.name), slab),
        version: store.version(slab.name),
        weights: {
          name: slab.name,
          dtype,
          cols: slab.cols,
          tiles: slab.tiles,
          recipe: recipeOf(slab.name),
          transposed: transposed.has(slab.name),
        },
      }
    },
    async read(slab, into) {
      const dtype = store.dtype(slab.name)
      // At the end of the memory that they are widened in: an element is read before its place is written.
      const raw = into.subarray(into.length - bytesIn(dtype, slab))
      await store.read(slab.name, slab.row0, raw, slab.resident)
      if (raw.length === into.length) return
      const wide = new Float32Array(into.buffer, into.byteOffset, into.length / 4)
      kernel.apply(raw, dtype, 0, UNCHANGED, [], wide)
    },
  }
}
