// Forward passes, one or a sweep of several that share each upload: joins the stream of weights
// (load, upload), the method's recipes (perturb) and the model's straight-line code (pass.ts). The step
// (src/train/step.ts) sees only losses.

import type { ModelInput } from '../../models/model.ts'
import { stream } from '../../scheduler/stream.ts'
import { inTurns, type NextSlab } from '../../scheduler/interleave.ts'
import type { Engine } from './engine.ts'
import type { Fold, Probes } from '../methods/method.ts'
import { beginPass } from './pass.ts'
import type { LossWanted, PassInput, Wanted } from './run.ts'
import { slabSource } from './slabs.ts'
import type { BatchShape } from './working-set.ts'
import type { Cached } from './attention.ts'
import { partOf } from './cut.ts'
import { maxOf } from '../util/extremes.ts'

/**
 * Runs the model on a batch under P probes (null: the weights as they are). For 'loss' returns the
 * cross-entropy of each wanted row, in nats, per probe [P][M], as f64; for 'logits' an empty list.
 */
export async function forward(
  engine: Engine,
  input: ModelInput,
  probes: Probes | null,
  wanted: Wanted,
  cached?: Cached,
): Promise<Float64Array[]> {
  const [losses] = await forwardAll(engine, [{ input, wanted, cached }], probes)
  return losses!
}

/**
 * Losses of a batch as `forward` returns them, in as many passes over the weights as the budget asks for
 * (cut.ts). The numbers are those of a single pass; each further one streams all weights again.
 */
export async function lossesOf(
  engine: Engine,
  input: ModelInput,
  probes: Probes | null,
  { rows, targets }: Omit<LossWanted, 'kind'>,
): Promise<Float64Array[]> {
  const [batch, tokens] = [input.inputIds.length, input.inputIds[0]!.length]
  const P = probes?.list.length ?? 1
  const whole = { probes: P, batch, tokens }
  const cut = engine.cut(whole)
  const shape = partOf(whole, cut)
  const losses = Array.from({ length: P }, () => new Float64Array(rows.length))
  for (let first = 0; first < batch; first += cut.batch) {
    const sequences = [first, first + cut.batch] as const
    const [from, to] = sequences.map((b) => countBelow(rows, b * tokens)) as [number, number]
    if (from === to) continue
    const wanted: LossWanted = {
      kind: 'loss',
      rows: rows.subarray(from, to).map((row) => row - first * tokens),
      targets: targets.subarray(from, to),
    }
    const some = {
      inputIds: input.inputIds.slice(...sequences),
      attentionMask: input.attentionMask.slice(...sequences),
      ...(input.seen && { seen: input.seen.slice(...sequences) }),
    }
    for (let p = 0; p < P; p += cut.probes) {
      const seen = probes && { ...probes, list: probes.list.slice(p, p + cut.probes) }
      const [made] = await forwardAll(engine, [{ input: some, wanted }], seen, { shape })
      made!.forEach((ofProbe, i) => losses[p + i]!.set(ofProbe, from))
    }
  }
  return losses
}

/** How many of the rows are below `end`. */
const countBelow = (rows: Uint32Array, end: number) =>
  rows.reduce((count, row) => count + Number(row < end), 0)

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
  probes: Probes | null,
  { shape, onSlab }: SweepOptions = {},
): Promise<Float64Array[][]> {
  const { device } = engine
  // A run resumed from its journal may owe more than the replay window that recipes are planned for.
  await foldOverdue(engine, 1)
  const set = engine.workingSet(shape ?? shapeOf(passes, probes))
  engine.vectors.upload(device, probes)

  const source = slabSource(engine, (name) => engine.state.recipe(name, probes))
  const slabs = stream(set.plan, set.slots, device, source, engine.counters, passes.length)
  const total = set.plan.slabs.length * passes.length
  try {
    const bodies = passes.map((pass, i) => async (next: NextSlab) => {
      const own = { ...pass, probes, next, alone: passes.length === 1 }
      const { run, input, losses } = beginPass(engine, set.lanes[pass.lane ?? i]!, own)
      await engine.model.forward(run, input)
      return losses()
    })
    return await inTurns(slabs, bodies, (used) => onSlab?.(used, total))
  } finally {
    await slabs.return()
  }
}

/** The shape of a single pass, or the largest of several with their number. */
function shapeOf(passes: readonly PassInput[], probes: Probes | null): BatchShape {
  const most = (of: (pass: PassInput) => number) => maxOf(passes.map(of))
  const keys = most(({ cached }) => cached?.capacity ?? 0)
  return {
    probes: probes?.list.length ?? 1,
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
  if (device.sharesCores) await store.foldedInMemory()
}
