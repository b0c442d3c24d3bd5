// How a batch whose activations exceed the budget, or what the device allocates at once, is cut into
// several passes over the weights, each with a part of its probes and sequences. Pure; running the
// passes is forward.ts.

import type { Plan } from '../../scheduler/plan.ts'
import { UserError } from '../util/errors.ts'
import type { BatchShape } from './working-set.ts'

/** Probes and sequences of a pass at most, and how many passes a batch takes. */
export interface Cut {
  readonly probes: number
  readonly batch: number
  readonly passes: number
}

/**
 * The fewest passes that fit the budget and the device; of equals those that stream least. Throws the
 * planner's UserError when one probe of one sequence does not fit.
 */
export function cutOf(planFor: (shape: BatchShape) => Plan, shape: BatchShape): Cut {
  let best: (Cut & { readonly bytes: number }) | null = null
  for (const probes of partSizes(shape.probes)) {
    for (const batch of partSizes(shape.batch)) {
      const passes = Math.ceil(shape.probes / probes) * Math.ceil(shape.batch / batch)
      if (best && passes > best.passes) break
      const plan = planThatFits(() => planFor({ ...shape, probes, batch }))
      if (!plan) continue
      if (passes === 1) return { probes, batch, passes }
      const bytes = passes * streamedBytes(plan)
      if (!best || passes < best.passes || bytes < best.bytes) {
        best = { probes, batch, passes, bytes }
      }
      break // with fewer sequences there are only more passes
    }
  }
  if (!best) planFor({ ...shape, probes: 1, batch: 1 }) // throws and says what is too large
  const { probes, batch, passes } = best!
  return { probes, batch, passes }
}

/** The shape of a pass. */
export const partOf = (shape: BatchShape, { probes, batch }: Cut): BatchShape => ({
  ...shape,
  probes,
  batch,
})

/** What the user reads of a cut. */
export const passesOf = ({ probes, batch, passes }: Cut) =>
  `${passes} passes per step, ${plural(probes, 'probe')} x ${plural(batch, 'sequence')} each: more exceed --memory, or what the device binds at once`

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

/** Largest parts of n things in 1, 2, 3, ... nearly equal parts: n, n/2, n/3, ..., 1. */
function partSizes(n: number): number[] {
  return [...new Set(Array.from({ length: n }, (_, i) => Math.ceil(n / (i + 1))))]
}

const streamedBytes = ({ slabs }: Plan) =>
  slabs.reduce((sum, slab) => sum + (slab.resident ? 0 : slab.bytes), 0)
