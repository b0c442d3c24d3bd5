// What the planner knows of a device: what a run asks of the device's own memory, and what that comes to.
// Data and pure functions; each device folder has a model of its own. Shapes: see device.ts.

import type { AttentionDims } from './packed.ts'

/** What attention sees at most, of one probe. */
export interface AttentionWork extends Pick<AttentionDims, 'heads' | 'kvHeads' | 'headSize'> {
  /** Groups of queries, the keys listed for all of them, and for one. */
  readonly groups: number
  readonly listed: number
  readonly longest: number
}

/** What a run asks of the device's own memory; sizes scratch and staging. */
export interface Workload {
  readonly probes: number
  /** R: rows of one probe. */
  readonly rows: number
  readonly attention: AttentionWork
  /** Largest compute tile of the model: elements, and rows. */
  readonly tileElements: number
  readonly tileRows: number
  /** M: rows of one probe whose logits are wanted, and targets of each of them, at most. */
  readonly headRows: number
  readonly targets: number
  /** Largest number of updates owed to a slab. */
  readonly terms: number
  /** Versions of a matrix at most: P, or 1 where all probes share the weights. */
  readonly versions: number
  /** Of the largest addend: columns of its projection, and elements of both factors; 0 without. */
  readonly projectionCols: number
  readonly addendElements: number
  /** Columns of the widest activation where they are f16; 0 where they are f32. */
  readonly halfCols: number
  /** Bytes of the largest slab as it is staged, and slots in the ring. */
  readonly slabBytes: number
  readonly slots: number
}

/** One allocation of memory, with what it is for. */
export interface Allocation {
  readonly label: string
  readonly bytes: number
}

/** A device's own memory as data and pure functions; each device folder has one, the planner takes it. */
export interface MemoryModel {
  /** Largest slab that one slot can hold, in bytes. */
  readonly maxSlabBytes: number
  /** Largest single allocation, in bytes (an adapter's binding); Infinity where only their sum counts. */
  readonly maxAllocationBytes: number
  /** Bytes that `slot` charges for a slab of `bytes`. */
  slotBytes(bytes: number): number
  stagingBytes(workload: Workload): number
  /** What `reserve` allocates beside staging. */
  scratch(workload: Workload): readonly Allocation[]
}

/** Bytes of several allocations. */
export const bytesOf = (allocations: readonly Allocation[]) =>
  allocations.reduce((sum, { bytes }) => sum + bytes, 0)
