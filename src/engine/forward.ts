// Forward passes: joins the stream of weights (load, upload), the method's recipes (perturb) and the model's
// program (run.ts), and brings the losses home. The step (src/train/step.ts) sees only losses.

import type { Model } from '../../models/model.ts'
import { longAfter } from '../../models/rope.ts'
import { stream } from '../../scheduler/stream.ts'
import {
  checkLabels,
  lengthsOf,
  packedApart,
  packTexts,
  type PackedBatch,
} from '../data/packing.ts'
import type { Sequence } from '../data/types.ts'
import { queryGroups } from '../device/packed.ts'
import type { Fold, Probes } from '../methods/method.ts'
import type { Engine } from './engine.ts'
import { headRows, type Wanted } from './head.ts'
import { readLosses, runProgram, type PassInput } from './run.ts'
import { sizeOfGroups, type BatchShape } from './shape.ts'
import { slabSource } from './slabs.ts'
import { inPasses, passesFor, shapeOf } from './split.ts'

export interface ForwardOptions {
  /** The shape to plan for, at least as large as the pass; by default the pass's own. */
  readonly shape?: BatchShape
  /** Called before each use of a slab; what it throws ends the pass. */
  readonly onSlab?: (used: number, total: number) => void
}

/**
 * The cross-entropies of a batch under P probes (null: the weights as they are): [P][L], in nats, f64, text by
 * text. In as many passes over the weights as the budget asks for (split.ts); the numbers are those of a single
 * pass, each further one streams all weights again.
 * @throws UserError if no token carries a label
 */
export async function lossesOf(
  engine: Engine,
  given: PackedBatch,
  probes: Probes | null,
  onSlab?: ForwardOptions['onSlab'],
): Promise<Float64Array[]> {
  checkLabels(given)
  const batch = packedApart(given, apartIn(engine.model))
  const P = probes?.list.length ?? 1
  const split = engine.split(batch, P)
  const losses = Array.from({ length: P }, () => new Float64Array(batch.rows.length))
  let [first, pass0] = [0, 0]
  const tell = (used: number, total: number) => onSlab?.(pass0 * total + used, split.passes * total)
  for (const part of split.parts) {
    const { places, ...asked } = headRows(part)
    if (places.length === 0) continue
    const pass = passOver(engine.model, part, { kind: 'loss', ...asked })
    for (let p = 0; p < P; p += split.probes) {
      const seen = probes && { ...probes, list: probes.list.slice(p, p + split.probes) }
      const made = await forward(engine, pass, seen, { shape: split.shape, onSlab: tell })
      pass0++
      made.forEach((ofProbe, i) => {
        places.forEach((place, label) => (losses[p + i]![first + label] = ofProbe[place]!))
      })
    }
    first += places.length
  }
  return losses
}

/**
 * Runs the model on one pass under P probes (null: the weights as they are). For 'loss' returns the
 * cross-entropies of the targets, in nats, per probe [P][M*perRow], as f64; for 'logits' an empty list.
 */
export async function forward(
  engine: Engine,
  pass: PassInput,
  probes: Probes | null,
  { shape, onSlab }: ForwardOptions = {},
): Promise<Float64Array[]> {
  const { device, model } = engine
  const { wanted } = pass
  // A run resumed from its journal may owe more than the replay window that recipes are planned for.
  await foldOverdue(engine, 1)
  const P = probes?.list.length ?? 1
  const set = engine.workingSet(shape ?? shapeOfPass(model, pass, P))
  engine.vectors.upload(device, probes)

  const source = slabSource(engine, (name) => engine.state.recipe(name, probes))
  const slabs = stream(set.plan, set.slots, device, source, engine.counters)
  let used = 0
  const next = async () => {
    onSlab?.(used++, set.plan.slabs.length)
    const { value, done } = await slabs.next()
    if (done) throw new Error('a pass asked for more slabs than the plan has')
    return value
  }
  try {
    await runProgram(engine, set, { ...pass, probes, next })
    return wanted.kind === 'loss' ? await readLosses(engine, set, wanted, P) : []
  } finally {
    await slabs.return()
  }
}

/**
 * Losses of any number of texts by the weights as they are, [L] text by text, in as few passes as memory allows.
 * @param onProgress called often with the texts done, a fraction; what it throws ends it
 */
export async function lossesOfTexts(
  engine: Engine,
  texts: readonly Sequence[],
  onProgress?: (done: number) => void,
): Promise<Float64Array> {
  const whole = packTexts(texts, { apart: apartIn(engine.model) })
  const losses = new Float64Array(whole.rows.length)
  let [done, label] = [0, 0]
  for (const part of inPasses(whole, passesFor(engine, shapeOf(whole, 1)))) {
    const count = part.texts.length
    if (part.rows.length > 0) {
      const tell = (used: number, total: number) => onProgress?.(done + (count * used) / total)
      const [made] = await lossesOf(engine, part, null, tell)
      losses.set(made!, label)
      label += part.rows.length
    }
    done += count
    onProgress?.(done)
  }
  return losses
}

/** Tokens up to which texts of the model have other angles than longer ones. */
export function apartIn({ ropes, prefixTokens: n = 0 }: Model): number | undefined {
  const after = longAfter(ropes)
  return after === undefined ? undefined : after - n
}

/** The pass over a whole batch. */
export function passOver(model: Model, batch: PackedBatch, wanted: Wanted): PassInput {
  const { prefixTokens: n = 0 } = model
  const { ids, positions, segments } = batch.packed
  const behind = (places: Uint32Array) => (n === 0 ? places : places.map((place) => place + n))
  const lengths = apartIn(model) !== undefined && { lengths: behind(lengthsOf(batch)) }
  const input = { ids, positions: behind(positions), ...lengths }
  return { input, sees: queryGroups(segments, undefined, n), wanted }
}

/** The shape of a pass as it is. */
export function shapeOfPass(
  { prefixTokens: n = 0 }: Model,
  { input, sees, wanted, cached }: PassInput,
  probes: number,
): BatchShape {
  return {
    probes,
    rows: input.ids.length,
    wanted: wanted.rows.length,
    targets: wanted.kind === 'loss' ? wanted.perRow : 1,
    ...sizeOfGroups(sees, n),
    cached: cached?.capacity ?? 0,
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
