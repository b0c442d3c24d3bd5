// Forward passes, one or a sweep of several that share each upload: joins the stream of weights, the
// method's recipes and the model's straight-line code (pass.ts). The step (src/train/step.ts) sees only losses.

import type { ModelInput } from '../../models/model.ts'
import { stream } from '../../scheduler/stream.ts'
import { inTurns, type NextSlab } from '../../scheduler/interleave.ts'
import type { Engine } from './engine.ts'
import type { Fold, Probe } from '../methods/method.ts'
import { onePass, type Wanted, type PassInput } from './pass.ts'
import { slabSource } from './slabs.ts'
import type { BatchShape } from './working-set.ts'
import type { Cached } from './attention.ts'
import { maxOf } from '../util/extremes.ts'

/**
 * Runs the model on a batch under P probes (null: the weights as they are). For 'loss' returns the
 * cross-entropy of each wanted row, in nats, per probe [P][M], as f64; for 'logits' an empty list.
 */
export async function forward(
  engine: Engine,
  input: ModelInput,
  probe: Probe | null,
  wanted: Wanted,
  cached?: Cached,
): Promise<Float64Array[]> {
  const [losses] = await forwardAll(engine, [{ input, wanted, cached }], probe)
  return losses!
}

/** Of a sweep: the shape that its passes are planned for, and how far it is. */
export interface SweepOptions {
  /** At least as large as every batch and, with `sweep`, as the number of passes. */
  readonly shape?: BatchShape
  /** Called before each pass's use of a slab; what it throws ends the sweep. */
  readonly onSlab?: (used: number, total: number) => void
}

/**
 * `forward` for several batches with one upload of the weights: every slab is used by one pass after
 * the other. Each pass calls the device as it would alone, so that its bits are the same.
 */
export async function forwardAll(
  engine: Engine,
  passes: readonly PassInput[],
  probe: Probe | null,
  { shape, onSlab }: SweepOptions = {},
): Promise<Float64Array[][]> {
  const { device } = engine
  // A run resumed from its journal may owe more than the replay window that recipes are planned for.
  await foldOverdue(engine, 1)
  const set = engine.workingSet(shape ?? shapeOf(passes, probe))
  engine.vectors.upload(device, probe)

  const source = slabSource(engine, probe)
  const slabs = stream(set.plan, set.slots, device, source, engine.counters, passes.length)
  const total = set.plan.slabs.length * passes.length
  try {
    const bodies = passes.map((pass, i) => (next: NextSlab) => {
      return onePass(engine, set.lanes[pass.lane ?? i]!, {
        ...pass,
        probe,
        next,
        alone: passes.length === 1,
      })
    })
    return await inTurns(slabs, bodies, (used) => onSlab?.(used, total))
  } finally {
    await slabs.return()
  }
}

/** The shape of a single pass, or the largest of several with their number. */
function shapeOf(passes: readonly PassInput[], probe: Probe | null): BatchShape {
  const most = (of: (pass: PassInput) => number) => maxOf(passes.map(of))
  const keys = most(({ cached }) => cached?.capacity ?? 0)
  return {
    probes: probe?.probes.length ?? 1,
    batch: most(({ input }) => input.inputIds.length),
    tokens: most(({ input }) => input.inputIds[0]!.length),
    ...(keys > 0 && { keys }),
    ...(passes.length > 1 && { sweep: passes.length }),
  }
}

/** Starts folding what dense methods owe beyond the replay window and `spare` updates more. */
export async function foldOverdue(engine: Engine, spare: number): Promise<void> {
  const fold = engine.state.overdue(spare)
  if (fold) await startFold(engine, fold)
}

/**
 * Folds in the background of the pass that follows, unless both would want the same cores and caches:
 * one after the other then takes less time than both at once (CHANGELOG, 2026-11-28).
 */
export async function startFold({ store, device }: Engine, fold: Fold): Promise<void> {
  await store.fold(fold)
  if (device.info.kind === 'cpu') await store.foldedInMemory()
}
