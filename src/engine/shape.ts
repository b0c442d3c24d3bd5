// The size of a batch as far as memory depends on it. What is held for a size is working-set.ts's matter,
// in how many passes a batch goes split.ts's.

import type { Packed, QueryGroups } from '../device/packed.ts'
import { maxOf } from '../util/extremes.ts'

/** Of one pass; rows and keys are those of one probe. */
export interface BatchShape {
  readonly probes: number
  /** R. */
  readonly rows: number
  /** M: rows whose logits are wanted, and targets of each of them. */
  readonly wanted: number
  readonly targets: number
  /** Groups of queries, the keys listed for all of them and for one, a prefix not counted. */
  readonly groups: number
  readonly listed: number
  readonly longest: number
  /** Rows of a cache of keys and values, besides a prefix; 0: there is none. */
  readonly cached: number
}

const FIELDS: readonly (keyof BatchShape)[] = [
  ...(['probes', 'rows', 'wanted', 'targets'] as const),
  ...(['groups', 'listed', 'longest', 'cached'] as const),
]

const combine = (of: (field: keyof BatchShape) => number) =>
  Object.fromEntries(FIELDS.map((field) => [field, of(field)])) as unknown as BatchShape

/** Whether what is held for shape b serves shape a. */
export const fits = (a: BatchShape, b: BatchShape) => FIELDS.every((field) => a[field] <= b[field])

/** The smallest shape that all fit in; at least one. */
export const largest = (shapes: readonly BatchShape[]): BatchShape =>
  combine((field) => maxOf(shapes.map((shape) => shape[field])))

/** Fields that grow with the number of texts. */
const ADDED: readonly (keyof BatchShape)[] = ['rows', 'wanted', 'groups', 'listed', 'cached']

/** What texts of these shapes have together at most. */
export const together = (shapes: readonly BatchShape[]): BatchShape =>
  combine((field) =>
    ADDED.includes(field)
      ? shapes.reduce((sum, shape) => sum + shape[field], 0)
      : maxOf(shapes.map((shape) => shape[field])),
  )

/** About one of `parts` equal parts. */
export const share = (shape: BatchShape, parts: number): BatchShape =>
  combine((field) => (ADDED.includes(field) ? Math.ceil(shape[field] / parts) : shape[field]))

/** Of rows that see each other by `segments`. */
export function sizeOf({ segments }: Pick<Packed, 'segments'>) {
  const lengths: number[] = []
  for (const { rows, parent } of segments) {
    lengths.push(rows + (parent === undefined ? 0 : lengths[parent]!))
  }
  return { groups: segments.length, ...lists(lengths) }
}

/** Of lists of keys as they are; those of a prefix of n rows are in them. */
export const sizeOfGroups = ({ groups }: QueryGroups, n: number) => ({
  groups: groups.length,
  ...lists(groups.map(({ keys }) => keys.length - n)),
})

const lists = (lengths: readonly number[]) => ({
  listed: lengths.reduce((sum, length) => sum + length, 0),
  longest: maxOf(lengths, 0),
})
