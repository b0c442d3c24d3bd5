// Sweeps: how many batches share one upload of the weights, and running them. Only batches that look at
// the weights as they are (evaluation); a step's probes are one batch anyway.

import type { ModelInput } from '../../models/model.ts'
import type { Plan } from '../../scheduler/plan.ts'
import { type LossWanted } from './run.ts'
import { lossesOf, forwardAll } from './forward.ts'
import type { Engine } from './engine.ts'
import type { BatchShape } from './working-set.ts'

/** The shape of one batch, without probes; with `keys` where it has a cache. */
export type SweepShape = Pick<BatchShape, 'batch' | 'tokens' | 'keys'>

/** Batches to be run one after another. */
export interface Batches extends SweepShape {
  readonly count: number
  /** Made when its sweep begins; at most [batch, tokens]. */
  at(index: number): { readonly input: ModelInput; readonly wanted: LossWanted }
}

/**
 * Batches per upload for `count` batches of the shape: the number with the least traffic among those
 * whose activations the budget holds beside a ring of slabs of one tile; of equals the smallest, which
 * leaves the most room for resident slabs.
 */
export function batchesPerSweep(
  planFor: Engine['planFor'],
  budgetBytes: number,
  shape: SweepShape,
  count: number,
): number {
  if (count < 2) return 1
  const one = { probes: 1, ...shape }
  const usual = planFor(one)
  if (bytesOf(usual.plan, false) === 0) return 1
  // What every further batch takes, and the most of them.
  const least = { budgetBytes: Infinity, resident: 'none' } as const
  const [two, three] = [2, 3].map((sweep) => planFor({ ...one, sweep }, least).plan.peakBytes)
  const most = Math.min(count, 2 + Math.floor((budgetBytes - two!) / (three! - two!)))
  // A set for a sweep takes the place of the usual one, whose residents come back after it.
  const returned = usual.held ? bytesOf(usual.plan, true) : 0
  const first = usual.held ? 0 : bytesOf(usual.plan, true)
  let best = { batches: 1, bytes: first + count * bytesOf(usual.plan, false) }
  for (let limit = 2; limit <= most; limit = Math.min(4 * limit, Math.max(most, limit + 1))) {
    // The smallest sweeps that are as few.
    const sweeps = Math.ceil(count / limit)
    const batches = Math.ceil(count / sweeps)
    const { plan } = planFor({ ...one, sweep: batches })
    const bytes = returned + bytesOf(plan, true) + sweeps * bytesOf(plan, false)
    if (bytes < best.bytes) best = { batches, bytes }
  }
  return best.batches
}

/**
 * Runs all batches, as many at once as fit; the losses of each, as `forward` returns them.
 * @param onProgress called often; `done` counts batches and has a fraction; what it throws ends it
 */
export async function inSweeps(
  engine: Engine,
  batches: Batches,
  onProgress?: (done: number) => void,
): Promise<Float64Array[]> {
  const { count, batch, tokens } = batches
  const { budgetBytes } = engine.options
  const losses: Float64Array[] = []
  if (engine.cut({ probes: 1, batch, tokens }).passes > 1) {
    for (let i = 0; i < count; i++) {
      const { input, wanted } = batches.at(i)
      for (const ofProbe of await lossesOf(engine, input, null, wanted)) losses.push(ofProbe)
      onProgress?.(i + 1)
    }
    return losses
  }
  const sweep = batchesPerSweep(engine.planFor, budgetBytes, { batch, tokens }, count)
  const shape = { probes: 1, batch, tokens, ...(sweep > 1 && { sweep }) }
  for (let first = 0; first < count; first += sweep) {
    const size = Math.min(sweep, count - first)
    const passes = Array.from({ length: size }, (_, i) => batches.at(first + i))
    const onSlab = (used: number, total: number) => onProgress?.(first + (size * used) / total)
    const made = await forwardAll(engine, passes, null, { shape, onSlab })
    for (const [ofWeights] of made) losses.push(ofWeights!)
    onProgress?.(first + size)
  }
  return losses
}

function bytesOf(plan: Plan, resident: boolean): number {
  return plan.slabs.reduce((sum, slab) => sum + (slab.resident === resident ? slab.bytes : 0), 0)
}
