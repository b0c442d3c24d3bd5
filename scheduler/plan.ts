// The plan of a run as a pure function: model shape + byte budget + batch -> slabs in execution
// order, slots, what stays resident, and the predicted peak by category. Imports no device; each
// device's own memory, and the most that it allocates at once, come in as a MemoryModel. `zo2 plan`
// prints what this returns.

import type { Tile } from '../src/device/device.ts'
import type { Category } from '../src/device/ledger.ts'
import { bytesOf, type Allocation, type MemoryModel, type Workload } from '../src/device/memory.ts'
import { UserError } from '../src/util/errors.ts'
import { maxOf } from '../src/util/extremes.ts'
import { formatBytes } from '../src/util/units.ts'
import { arenas, type PlanBuffer } from './arena.ts'
import { slabTiles, tileHeight, tilesOf } from './tiles.ts'

/** A matrix as the planner sees it; models/model.ts has the same fields. */
export interface PlanMatrix {
  readonly name: string
  readonly rows: number
  readonly cols: number
  readonly block: number
}

/** A contiguous run of rows of one matrix: what is read, uploaded and folded as one. */
export interface Slab {
  /** Position in execution order. */
  readonly index: number
  readonly name: string
  readonly block: number
  readonly cols: number
  readonly tiles: readonly Tile[]
  readonly row0: number
  readonly rows: number
  /** Bytes when staged, at most: in f32 if the run may fold updates into it. */
  readonly bytes: number
  readonly resident: boolean
}

export interface PlanInput {
  readonly matrices: readonly PlanMatrix[]
  /** Sizes of all one-dimensional tensors. */
  readonly vectors: readonly number[]
  /** Activation buffers of R rows. */
  readonly buffers: readonly PlanBuffer[]
  /** Bytes of one weight when staged: 4 where updates are folded, else the file's. */
  readonly elementBytes: (name: string) => number
  readonly probes: number
  readonly batch: number
  readonly tokens: number
  /** Batches whose activations are held at once; 1 if left out. */
  readonly sweep?: number
  readonly heads: number
  readonly headSize: number
  /** Updates a slab may owe at most. */
  readonly terms: number
  /** Versions of a matrix, keys of a sequence, size of the largest addend: see Workload. */
  readonly versions: number
  readonly keys: number
  readonly projectionCols: number
  readonly addendElements: number
  /** Of one activation: 4 or 2. */
  readonly activationBytes: number
  /** A cache of keys and values and those behind a prefix, with their masks; none without. */
  readonly keyValues: readonly Allocation[]
  readonly memory: MemoryModel
  readonly budgetBytes: number
  readonly slabBytes: number
  readonly resident: 'auto' | 'none' | 'all'
}

export interface Plan {
  readonly slabs: readonly Slab[]
  /** Slots in the ring, and the bytes of each; 0 when everything is resident. */
  readonly slots: number
  readonly slotBytes: number
  readonly residentSlabs: number
  readonly workload: Workload
  /** Predicted bytes by category; their sum is the predicted peak. */
  readonly bytes: Readonly<Record<Category, number>>
  readonly peakBytes: number
}

const RING_SLOTS = 3
const MIN_SLOTS = 2

/**
 * Plans a run. Throws UserError when the budget is too small, naming the smallest that works, or when one
 * allocation is larger than the device makes.
 */
export function plan(input: PlanInput): Plan {
  const { maxSlabBytes } = input.memory
  const limit = Math.min(input.slabBytes, maxSlabBytes)
  const smallest = maxOf(input.matrices.map((m) => tileBytes(input, m)))
  if (smallest > maxSlabBytes) {
    throw new UserError(
      `one compute tile takes ${formatBytes(smallest)}, more than this device binds at once (${formatBytes(maxSlabBytes)}); use another device`,
    )
  }
  checkAllocations(input)
  // A smaller slab than asked for when the budget cannot hold the ring: halve until it fits.
  for (let slabBytes = Math.max(limit, smallest); ; slabBytes = Math.max(slabBytes / 2, smallest)) {
    for (let slots = RING_SLOTS; slots >= MIN_SLOTS; slots--) {
      const found = withSlabs(input, slabBytes, slots)
      if (found.peakBytes <= input.budgetBytes) return found
    }
    if (slabBytes === smallest) {
      const { peakBytes } = withSlabs(input, smallest, MIN_SLOTS)
      throw new UserError(
        `--memory ${formatBytes(input.budgetBytes)} is too small for this model and batch: the smallest that works is ${formatBytes(peakBytes, 'up')}`,
      )
    }
  }
}

/** The plan for one slab size and slot count. */
function withSlabs(input: PlanInput, slabBytes: number, slots: number): Plan {
  const slabs = cut(input, slabBytes)
  const staged = slabs.reduce((max, s) => Math.max(max, s.bytes), 0)
  const workload = { ...workloadOf(input), slabBytes: staged }
  // Bytes of the first n slabs, and of the largest from the n-th on.
  const kept = [0]
  for (const { bytes } of slabs) kept.push(kept.at(-1)! + input.memory.slotBytes(bytes))
  const largest = new Array<number>(slabs.length + 1).fill(0)
  for (const { index, bytes } of slabs.toReversed()) {
    largest[index] = Math.max(largest[index + 1]!, bytes)
  }

  /** Everything of a plan that keeps the first n slabs, but the slabs themselves. */
  const keeping = (n: number) => {
    const ring = Math.min(slots, slabs.length - n)
    const slotBytes = largest[n]!
    const full = { ...workload, slots: Math.max(ring, 1) }
    const bytes = categories(input, full, ring * input.memory.slotBytes(slotBytes), kept[n]!)
    const peakBytes = Object.values(bytes).reduce((sum, each) => sum + each, 0)
    return { slots: ring, slotBytes, residentSlabs: n, workload: full, bytes, peakBytes }
  }
  let best = keeping(input.resident === 'all' ? slabs.length : 0)
  if (input.resident === 'auto') {
    // As many as fit, or while none fits, as few bytes as can be. Leading slabs are kept: they are
    // wanted at the start of a step, when the ring is still filling.
    for (let n = 1; n <= slabs.length; n++) {
      const next = keeping(n)
      if (next.peakBytes <= Math.max(input.budgetBytes, best.peakBytes)) best = next
    }
  }
  const { residentSlabs } = best
  return { ...best, slabs: slabs.map((s) => ({ ...s, resident: s.index < residentSlabs })) }
}

function cut(input: PlanInput, slabBytes: number): Omit<Slab, 'resident'>[] {
  return input.matrices
    .flatMap((m) => {
      const size = input.elementBytes(m.name)
      return slabTiles(tilesOf(m.rows, m.cols), m.cols, Math.floor(slabBytes / size)).map(
        (tiles) => {
          const rows = tiles.reduce((sum, t) => sum + t.rows, 0)
          const { name, block, cols } = m
          return { name, block, cols, tiles, row0: tiles[0]!.row0, rows, bytes: rows * cols * size }
        },
      )
    })
    .map((slab, index) => ({ ...slab, index }))
}

/** What the run asks of the device, but for the slabs and the slots of the ring. */
function workloadOf(input: PlanInput): Omit<Workload, 'slabBytes' | 'slots'> {
  const { probes, batch, tokens, heads, headSize, terms } = input
  const { versions, keys, projectionCols, addendElements } = input
  const most = (of: (rows: number, cols: number) => number) =>
    input.matrices.reduce((max, m) => Math.max(max, of(tileHeight(m.rows, m.cols), m.cols)), 0)
  const rows = batch * tokens
  return {
    probes,
    rows,
    batch,
    tokens,
    heads,
    headSize,
    tileElements: most((rows, cols) => rows * cols),
    tileRows: most((rows) => rows),
    headRows: rows,
    terms,
    versions,
    keys,
    projectionCols,
    addendElements,
    halfCols: input.activationBytes === 2 ? maxOf(input.buffers.map((b) => b.cols)) : 0,
  }
}

/** Of one batch of a sweep: buffers, the key mask [B, T], the loss state [R, 3], keys and values. */
function activations(input: PlanInput): Allocation[] {
  const { probes, batch, tokens, activationBytes, keyValues } = input
  const rows = batch * tokens
  return [
    ...arenas(input.buffers, probes * rows, activationBytes).map(({ elements, places }) => ({
      label: `activations "${places[0]!.label}"`,
      bytes: elements * activationBytes,
    })),
    { label: 'the key mask', bytes: 4 * rows },
    { label: 'the loss state', bytes: 4 * 3 * probes * rows },
    ...keyValues,
  ]
}

/** Biases and norms in a version for each probe. */
const vectors = ({ vectors, probes }: PlanInput): Allocation[] =>
  vectors.map((size) => ({ label: 'a bias or norm', bytes: 4 * probes * size }))

function categories(input: PlanInput, workload: Workload, slots: number, residentSlabs: number) {
  const { sweep = 1, memory } = input
  return {
    slots,
    staging: memory.stagingBytes(workload),
    activations: sweep * bytesOf(activations(input)),
    scratch: bytesOf(memory.scratch(workload)),
    resident: bytesOf(vectors(input)) + residentSlabs,
  }
}

/** Throws if anything but slabs is larger than the device allocates at once. */
function checkAllocations(input: PlanInput): void {
  const { memory, probes, batch, tokens } = input
  const most = memory.maxAllocationBytes
  const workload = { ...workloadOf(input), slabBytes: 0, slots: 1 }
  const all = [...activations(input), ...vectors(input), ...memory.scratch(workload)]
  const large = all.reduce((a, b) => (b.bytes > a.bytes ? b : a))
  if (large.bytes <= most) return
  throw new UserError(
    `${large.label} of ${plural(probes, 'probe')} x ${plural(batch, 'sequence')} x ${plural(tokens, 'token')} takes ${formatBytes(large.bytes)}, and this device binds at most ${formatBytes(most)} at once: use ${batch > 1 ? 'a smaller batch, ' : ''}fewer tokens (--max-length), or --device cpu`,
  )
}

const plural = (n: number, thing: string) => `${n} ${thing}${n === 1 ? '' : 's'}`

const tileBytes = (input: PlanInput, { name, rows, cols }: PlanMatrix) =>
  tileHeight(rows, cols) * cols * input.elementBytes(name)
