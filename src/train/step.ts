// ONE ZEROTH-ORDER STEP, top to bottom (MeZO, arXiv 2305.17333; streaming as in ZO2, 2503.12668):
//
//   begin the step: a window may end                  complete windows or owed updates are folded
//   for each micro-batch: one forward of all probes   slabs stream through the device once
//   losses = mean over all labelled tokens            the only wait (or another objective)
//   g_i = (loss_i+ - loss_i-) / (2 eps)               finite, or the step is skipped
//   journal.append(step, lr, eps, g, ...)             durable before anything uses it
//   push -lr*g_i for every direction                  vectors updated; matrices at their next use
//
// Weights are never written here: theta_t is theta_0 plus the trajectory.

import type { PackedBatch } from '../data/packing.ts'
import type { Engine } from '../engine/engine.ts'
import { foldOverdue, lossesOf, startFold } from '../engine/forward.ts'
import { entryOf, updateOf, type JournalEntry } from '../run/journal.ts'
import { alone, type Exchange, type Totals } from './exchange.ts'
import { MEAN_LOSS, scoreLosses, scoreOutputs, type Objective } from './objective.ts'

export interface StepInput {
  /** Micro-batches: all are seen by the same probes; their tokens count alike. */
  readonly batches: readonly PackedBatch[]
  /** What to make smaller; the mean loss over labelled tokens by default. */
  readonly objective?: Objective
  /** 0-based. */
  readonly step: number
  readonly lr: number
  readonly eps: number
  readonly weightDecay: number
  /** The other machines of the run; none by default. */
  readonly exchange?: Exchange
  /** Makes the entry durable; the step takes effect only after it resolves. */
  readonly append: (entry: JournalEntry) => Promise<void>
}

/**
 * One step of training. Returns the journal entry. With a non-finite loss the entry is marked as
 * skipped with projected_grad 0, and the weights stay as they are.
 */
export async function zoStep(engine: Engine, input: StepInput): Promise<JournalEntry> {
  const { estimator } = engine.options
  const { step, lr, eps, weightDecay, objective = MEAN_LOSS, exchange = alone } = input

  const fold = engine.state.begin(step)
  if (fold) await startFold(engine, fold)
  await foldOverdue(engine, 0)

  const probes = { step, list: estimator.probes(eps) } // theta + scale * z, one for each scale
  const mine = new Map<number, Totals>()
  for (const [i, batch] of input.batches.entries()) {
    if (objective.kind === 'losses') {
      const losses = await lossesOf(engine, batch, probes) // one pass of the weights
      mine.set(i, await scoreLosses(losses, batch, objective))
    } else {
      mine.set(i, await scoreOutputs(engine, batch, probes, objective))
    }
  }
  const losses = meansOf(await exchange.gather(step, mine))

  const entry = entryOf({ step, lr, eps }, losses, estimator)
  await input.append(entry)

  if (!entry.skipped) engine.push(updateOf(entry, weightDecay))
  return entry
}

/** Of each probe: the sum over all micro-batches by their count, in the order of the micro-batches. */
function meansOf(all: readonly Totals[]): number[] {
  return all[0]!.map((_, p) => {
    let [sum, count] = [0, 0]
    for (const totals of all) {
      sum += totals[p]!.sum
      count += totals[p]!.count
    }
    return sum / count
  })
}
