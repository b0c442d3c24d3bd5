// The plan of a run as a pure function: model shape + byte budget + batch -> slabs in execution
// order, slots, what stays resident, and the predicted peak by category. Imports no device; each
// device's own memory, and the most that it allocates at once, come in as a MemoryModel. `zo2 plan`
// prints what this returns.

import type { Tile } from '../src/device/device.ts'
import type { Category } from '../src/device/ledger.ts'
import {
  bytesOf,
  type Allocation,
  type AttentionWork,
  type MemoryModel,
  type Workload,
} from '../src/device/memory.ts'
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
  /** P, R, and M with the targets of each of them. */
  readonly probes: number
  readonly rows: number
  readonly wanted: number
  readonly targets: number
  readonly attention: AttentionWork
  /** Updates a slab may owe at most. */
  readonly terms: number
  /** Versions of a matrix, size of the largest addend: see Workload. */
  readonly versions: number
  readonly projectionCols: number
  readonly addendElements: number
  /** Of one activation: 4 or 2. */
  readonly activationBytes: number
  /** What a pass holds beside the buffers: a cache of keys and values, those behind a prefix, angles of positions. */
  readonly beside: readonly Allocation[]
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
      if (found.peakBytes <= input.budgetBytes) return withResidents(found)
    }
    if (slabBytes === smallest) {
      const { peakBytes } = withSlabs(input, smallest, MIN_SLOTS)
      throw new UserError(
        `--memory ${formatBytes(input.budgetBytes)} is too small for this model and batch: the smallest that works is ${formatBytes(peakBytes, 'up')}`,
      )
    }
  }
}

/** A plan whose slabs do not say yet whether they stay. */
type Unmarked = Omit<Plan, 'slabs'> & { readonly slabs: readonly Omit<Slab, 'resident'>[] }

const withResidents = ({ slabs, ...rest }: Unmarked): Plan => ({
  ...rest,
  slabs: slabs.map((slab) => ({ ...slab, resident: slab.index < rest.residentSlabs })),
})

/** The plan for one slab size and slot count. */
function withSlabs(input: PlanInput, slabBytes: number, slots: number): Unmarked {
  const { memory, resident, budgetBytes } = input
  const slabs = slabsOf(input, slabBytes)
  const workload = { ...workloadOf(input), slabBytes: maxOf(slabs.map(({ bytes }) => bytes)) }
  // Bytes of the first n slabs, and of the largest from the n-th on.
  const kept = [0]
  for (const { bytes } of slabs) kept.push(kept.at(-1)! + memory.slotBytes(bytes))
  const largest = new Array<number>(slabs.length + 1).fill(0)
  for (let n = slabs.length - 1; n >= 0; n--)
    largest[n] = Math.max(largest[n + 1]!, slabs[n]!.bytes)

  const besides = new Map<number, Beside>() // the same for many n
  const besideOf = (ring: number): Beside => {
    const found = besides.get(ring) ?? besideSlabs(input, { ...workload, slots: Math.max(ring, 1) })
    besides.set(ring, found)
    return found
  }
  const ringOf = (n: number) => Math.min(slots, slabs.length - n)
  const slotsBytes = (n: number) => ringOf(n) * memory.slotBytes(largest[n]!)
  /** The peak of a plan that keeps the first n slabs. */
  const peakOf = (n: number) => besideOf(ringOf(n)).totalBytes + slotsBytes(n) + kept[n]!

  let best = resident === 'all' ? slabs.length : 0
  if (resident === 'auto') {
    // As many as fit, or while none fits, as few bytes as can be. Leading slabs are kept: they are
    // wanted at the start of a step, when the ring is still filling.
    let least = peakOf(best)
    for (let n = 1; n <= slabs.length; n++) {
      const peak = peakOf(n)
      if (peak <= Math.max(budgetBytes, least)) [best, least] = [n, peak]
    }
  }
  const { workload: full, bytes } = besideOf(ringOf(best))
  return {
    slabs,
    slots: ringOf(best),
    slotBytes: largest[best]!,
    residentSlabs: best,
    workload: full,
    bytes: { ...bytes, slots: slotsBytes(best), resident: bytes.resident + kept[best]! },
    peakBytes: peakOf(best),
  }
}

/** Slabs of the models that are being planned, which are asked for again and again: kept for this turn alone. */
const recent = new Map<readonly PlanMatrix[], Map<string, readonly Omit<Slab, 'resident'>[]>>()

/** The slabs of at most so many bytes. */
function slabsOf({ matrices, elementBytes }: PlanInput, slabBytes: number) {
  if (recent.size === 0) queueMicrotask(() => recent.clear())
  let known = recent.get(matrices)
  if (!known) recent.set(matrices, (known = new Map()))
  const sizes = matrices.map(({ name }) => elementBytes(name))
  const key = `${slabBytes} ${sizes.join()}`
  let slabs = known.get(key)
  if (!slabs) known.set(key, (slabs = cut(matrices, sizes, slabBytes)))
  return slabs
}

function cut(matrices: readonly PlanMatrix[], sizes: readonly number[], slabBytes: number) {
  const slabs: Omit<Slab, 'resident'>[] = []
  for (const [i, { name, block, rows: all, cols }] of matrices.entries()) {
    const size = sizes[i]!
    for (const tiles of slabTiles(tilesOf(all, cols), cols, Math.floor(slabBytes / size))) {
      const rows = tiles.reduce((sum, t) => sum + t.rows, 0)
      const [index, row0, bytes] = [slabs.length, tiles[0]!.row0, rows * cols * size]
      slabs.push({ index, name, block, cols, tiles, row0, rows, bytes })
    }
  }
  return slabs
}

/** What the run asks of the device, but for the slabs and the slots of the ring. */
function workloadOf(input: PlanInput): Omit<Workload, 'slabBytes' | 'slots'> {
  const { probes, rows, wanted, targets, attention, terms } = input
  const { versions, projectionCols, addendElements } = input
  const most = (of: (rows: number, cols: number) => number) =>
    input.matrices.reduce((max, m) => Math.max(max, of(tileHeight(m.rows, m.cols), m.cols)), 0)
  return {
    probes,
    rows,
    attention,
    tileElements: most((height, cols) => height * cols),
    tileRows: most((height) => height),
    headRows: wanted,
    targets,
    terms,
    versions,
    projectionCols,
    addendElements,
    halfCols: input.activationBytes === 2 ? maxOf(input.buffers.map((b) => b.cols)) : 0,
  }
}

/** Buffers, the loss state [P*M, 2 + targets], keys and values. */
function activations(input: PlanInput): Allocation[] {
  const { probes, rows, wanted, targets, activationBytes, beside } = input
  return [
    ...arenas(input.buffers, probes * rows, activationBytes).map(({ label, elements }) => ({
      label: `activations "${label}"`,
      bytes: elements * activationBytes,
    })),
    { label: 'the loss state', bytes: 4 * (2 + targets) * probes * wanted },
    ...beside,
  ]
}

/** Biases and norms in a version for each probe. */
const vectors = ({ vectors, probes }: PlanInput): Allocation[] =>
  vectors.map((size) => ({ label: 'a bias or norm', bytes: 4 * probes * size }))

/** Everything but slabs. */
interface Beside {
  readonly workload: Workload
  readonly bytes: Readonly<Record<Category, number>>
  readonly totalBytes: number
}

function besideSlabs(input: PlanInput, workload: Workload): Beside {
  const { memory } = input
  const bytes = {
    slots: 0,
    staging: memory.stagingBytes(workload),
    activations: bytesOf(activations(input)),
    scratch: bytesOf(memory.scratch(workload)),
    resident: bytesOf(vectors(input)),
  }
  const totalBytes = Object.values(bytes).reduce((sum, each) => sum + each, 0)
  return { workload, bytes, totalBytes }
}

/** Throws if anything but slabs is larger than the device allocates at once. */
function checkAllocations(input: PlanInput): void {
  const { memory, probes, rows, attention } = input
  const most = memory.maxAllocationBytes
  const workload = { ...workloadOf(input), slabBytes: 0, slots: 1 }
  const all = [...activations(input), ...vectors(input), ...memory.scratch(workload)]
  const large = all.reduce((a, b) => (b.bytes > a.bytes ? b : a))
  if (large.bytes <= most) return
  throw new UserError(
    `${large.label} of ${plural(probes, 'probe')} x ${plural(rows, 'token')} takes ${formatBytes(large.bytes)}, and this device binds at most ${formatBytes(most)} at once: use ${attention.groups > 1 ? 'a smaller batch, ' : ''}fewer tokens (--max-length), or --device cpu`,
  )
}

const plural = (n: number, thing: string) => `${n} ${thing}${n === 1 ? '' : 's'}`

const tileBytes = (input: PlanInput, { name, rows, cols }: PlanMatrix) =>
  tileHeight(rows, cols) * cols * input.elementBytes(name)
