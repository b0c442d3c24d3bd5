// In how many passes over the weights texts go. A batch whose activations exceed the budget, or what the
// device allocates at once, goes in parts, each with some of its probes and texts; an evaluation of any number
// of texts in as many as stream least. What a text's losses are does not depend on it. Running the
// passes is forward.ts.

import type { Plan } from '../../scheduler/plan.ts'
import { packTexts, type PackedBatch } from '../data/packing.ts'
import { UserError } from '../util/errors.ts'
import { headRows } from './head.ts'
import { largest, share, sizeOf, type BatchShape } from './shape.ts'

/** Probes and texts of a pass at most. */
export interface Cut {
  readonly probes: number
  readonly texts: number
}

/** A batch in parts. */
export interface Split extends Cut {
  readonly parts: readonly PackedBatch[]
  readonly passes: number
  /** Every pass fits in it. */
  readonly shape: BatchShape
}

/** The shape of a whole batch in one pass. */
export function shapeOf(batch: PackedBatch, probes: number): BatchShape {
  const { rows, perRow } = headRows(batch)
  const size = { rows: batch.packed.ids.length, ...sizeOf(batch.packed) }
  return { probes, wanted: rows.length, targets: perRow, ...size, cached: 0 }
}

/** A batch cut so. */
export function splitBy(batch: PackedBatch, P: number, { probes, texts }: Cut): Split {
  const parts = partsOf(batch, texts)
  const shape = largest(parts.map((part) => shapeOf(part, probes)))
  return { probes, texts, parts, passes: Math.ceil(P / probes) * parts.length, shape }
}

/**
 * The fewest passes that fit the budget and the device; of equals those that stream least. Throws the
 * planner's UserError when one probe of one text does not fit.
 */
export function splitOf(
  planFor: (shape: BatchShape) => Plan,
  batch: PackedBatch,
  P: number,
): Split {
  let best: (Split & { readonly bytes: number }) | null = null
  for (const probes of partSizes(P)) {
    for (const texts of partSizes(batch.texts.length)) {
      const split = splitBy(batch, P, { probes, texts })
      if (best && split.passes > best.passes) break
      const plan = planThatFits(() => planFor(split.shape))
      if (!plan) continue
      if (split.passes === 1) return split
      const bytes = split.passes * streamedBytes(plan)
      if (!best || split.passes < best.passes || bytes < best.bytes) best = { ...split, bytes }
      break // with fewer texts there are only more passes
    }
  }
  if (!best) planFor(splitBy(batch, P, { probes: 1, texts: 1 }).shape) // throws and says what is too large
  return best!
}

/** What plans passes: an engine, or `zo2 plan`. */
interface Planner {
  planFor(shape: BatchShape): { readonly plan: Plan }
  /** Rows of a probe that there is memory for already. */
  readonly heldRows: number
}

/** Rows of a pass at most, where more passes would stream no more, unless more are held already. */
const FEW_ROWS = 1024

/**
 * In how many passes texts of this size in all go with the least traffic; of equals in the fewest that need
 * no more rows than few, or than the device has memory for already.
 */
export function passesFor({ planFor, heldRows }: Planner, whole: BatchShape): number {
  const enough = Math.max(heldRows, FEW_ROWS)
  let best = { passes: whole.rows, bytes: Infinity }
  for (let passes = 1; passes <= whole.rows; passes *= 2) {
    const part = share(whole, passes)
    const plan = planThatFits(() => planFor(part).plan)
    if (!plan) continue
    const bytes = residentBytes(plan) + passes * streamedBytes(plan)
    if (bytes <= best.bytes) best = { passes, bytes }
    if (part.rows <= enough) break
  }
  return best.passes
}

/** Consecutive texts of a batch in `passes` parts of about the same rows. */
export function inPasses(batch: PackedBatch, passes: number): PackedBatch[] {
  const limit = Math.ceil(batch.packed.ids.length / passes)
  const seen = new Uint8Array(batch.packed.ids.length)
  const ends: number[] = []
  let rows = 0
  batch.textRows.forEach((own, i) => {
    const added = own.reduce((sum, row) => sum + 1 - seen[row]!, 0)
    own.forEach((row) => (seen[row] = 1))
    if (rows > 0 && rows + added > limit) {
      ends.push(i)
      rows = 0
    }
    rows += added
  })
  if (ends.length === 0) return [batch]
  return [...ends, batch.texts.length].map((end, i) => {
    return packTexts(batch.texts.slice(ends[i - 1] ?? 0, end), { apart: batch.apart })
  })
}

/** What the user reads of a split. */
export const passesOf = ({ probes, texts, passes }: Omit<Split, 'parts' | 'shape'>) =>
  `${passes} passes per step, ${plural(probes, 'probe')} x ${plural(texts, 'text')} each: more exceed --memory, or what the device binds at once`

const plural = (n: number, thing: string) => `${n} ${thing}${n === 1 ? '' : 's'}`

/** The plan; null if it is larger than its budget, or a part of it than the device allocates at once. */
export function planThatFits(plan: () => Plan): Plan | null {
  try {
    return plan()
  } catch (error) {
    if (error instanceof UserError) return null
    throw error
  }
}

function partsOf(batch: PackedBatch, texts: number): PackedBatch[] {
  if (texts >= batch.texts.length) return [batch]
  return Array.from({ length: Math.ceil(batch.texts.length / texts) }, (_, i) => {
    return packTexts(batch.texts.slice(i * texts, (i + 1) * texts), { apart: batch.apart })
  })
}

/** Largest parts of n things in 1, 2, 3, ... nearly equal parts: n, n/2, n/3, ..., 1. */
function partSizes(n: number): number[] {
  return [...new Set(Array.from({ length: n }, (_, i) => Math.ceil(n / (i + 1))))]
}

const bytesWhere = (plan: Plan, resident: boolean) =>
  plan.slabs.reduce((sum, slab) => sum + (slab.resident === resident ? slab.bytes : 0), 0)
const streamedBytes = (plan: Plan) => bytesWhere(plan, false)
const residentBytes = (plan: Plan) => bytesWhere(plan, true)
