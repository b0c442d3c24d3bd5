// The device's own memory for one workload, exactly as memory.ts predicts it: the perturbed tile,
// the logits of a tile, row indices, what attention sees, and the recipes of recorded perturbations.

import { probeKey, type Recipe } from '../../noise/distributions.ts'
import type { Workload } from '../memory.ts'
import type { QueryGroups } from '../packed.ts'
import { attentionTable, sizesOf, tableWords } from './attention-table.ts'
import type { BufferAllocation, Buffers } from './buffers.ts'
import { USAGE } from './buffers.ts'
import type { Commands } from './commands.ts'
import { RECIPE_REGIONS, scratchLabel, scratchSizes } from './memory.ts'

export interface Scratch {
  readonly workload: Workload
  readonly weights: GPUBuffer
  readonly logits: GPUBuffer
  /** Of an addend: x after its right factor, and both factors. */
  readonly projection: GPUBuffer
  readonly factors: GPUBuffer
  /** Uploads row indices or targets, in order with the recorded work, and returns their buffer. */
  indices(values: Uint32Array): GPUBuffer
  /** The table of what attention sees, for blocks of `rows` queries: uploaded in that order unless it is there. */
  table(sees: QueryGroups, rows: number): { readonly buffer: GPUBuffer; readonly blocks: number }
  readonly recipes: GPUBuffer
  /** Uploads a recipe with `versions` scales; returns its first row in `recipes`. */
  recipe(recipe: Recipe, versions: number): number
  release(): void
}

export function createScratch(commands: Commands, buffers: Buffers, workload: Workload): Scratch {
  const sizes = scratchSizes(workload)
  const { parts, release } = allocateParts(buffers, sizes)
  const { indices, recipes, attention } = parts
  const regionRows = workload.terms + workload.versions
  let region = 0
  let held: { sees: QueryGroups; rows: number; blocks: number } | undefined

  return {
    ...parts,
    workload,
    release,
    indices(values) {
      if (values.byteLength > sizes.indices) {
        throw new RangeError(
          `${values.length} row indices or targets exceed the ${sizes.indices / 4} that were reserved`,
        )
      }
      commands.upload(indices, 0, new Uint32Array(values))
      return indices
    },
    table(sees, rows) {
      if (held?.sees !== sees || held.rows !== rows) {
        checkSizes(sees, workload)
        const { table, blocks } = attentionTable(sees, rows)
        commands.upload(attention, 0, table)
        held = { sees, rows, blocks }
      }
      return { buffer: attention, blocks: held.blocks }
    },
    recipe(recipe, versions) {
      const { terms, scales } = recipe
      if (terms.length > workload.terms || versions > workload.versions) {
        throw new RangeError(
          `a recipe of ${terms.length} terms and ${versions} versions exceeds the ` +
            `${workload.terms} and ${workload.versions} that were reserved`,
        )
      }
      // A queue write overtakes recorded work, so all readers of the last lap are submitted first.
      if (region === 0) commands.flush()
      const firstRow = region * regionRows
      region = (region + 1) % RECIPE_REGIONS
      const bits = new Uint32Array((terms.length + versions) * 4)
      const floats = new Float32Array(bits.buffer)
      terms.forEach((term, t) => {
        bits.set([term.k0, term.k1], t * 4)
        floats.set([term.coefficient, term.decay], t * 4 + 2)
      })
      // Without a probe every version is E itself, whatever the scales say.
      for (let p = 0; p < versions; p++) {
        const key = probeKey(recipe, p)
        if (!key) continue
        floats[(terms.length + p) * 4] = scales[p]!
        bits.set([key.k0, key.k1], (terms.length + p) * 4 + 1)
      }
      commands.gpu.queue.writeBuffer(recipes, firstRow * 16, bits)
      return firstRow
    },
  }
}

function checkSizes(sees: QueryGroups, { rows, attention }: Workload) {
  const sizes = sizesOf(sees)
  if (tableWords(sizes) <= tableWords({ ...attention, queries: rows })) return
  throw new RangeError(
    `attention of ${sizes.queries} queries in ${sizes.groups} groups that list ${sizes.listed} keys is ` +
      `larger than what was reserved: ${rows} in ${attention.groups} that list ${attention.listed}`,
  )
}

/** All buffers, or none if one of them cannot be. */
function allocateParts(buffers: Buffers, sizes: ReturnType<typeof scratchSizes>) {
  const made: BufferAllocation[] = []
  const release = () => {
    for (const allocation of made) buffers.release(allocation)
  }
  const part = (name: keyof typeof sizes) => {
    const usage = USAGE.storage | USAGE.copyDst | USAGE.copySrc
    const allocation = buffers.allocate('scratch', scratchLabel(name), sizes[name], usage)
    made.push(allocation)
    return allocation.buffer
  }
  try {
    const parts = {
      weights: part('weights'),
      logits: part('logits'),
      projection: part('projection'),
      factors: part('factors'),
      indices: part('indices'),
      attention: part('attention'),
      recipes: part('recipes'),
    }
    return { parts, release }
  } catch (error) {
    release()
    throw error
  }
}
