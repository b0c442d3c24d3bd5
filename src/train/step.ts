// ONE ZEROTH-ORDER STEP, top to bottom (MeZO, arXiv 2305.17333; streaming as in ZO2, 2503.12668):
//
//   begin the step: a window may turn                 complete windows or owed updates are folded
//   for each micro-batch: one forward of all probes   slabs stream through the device once
//   losses = mean over all labelled tokens            the only wait (or another objective)
//   g_i = (loss_i+ - loss_i-) / (2 eps)               finite, or the step is skipped
//   journal.append(step, lr, eps, g, ...)             durable before anything uses it
//   push -lr*g_i for every direction                  vectors updated; matrices at their next use
//
// Weights are never written here: theta_t is theta_0 plus the trajectory.

import type { Batch } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { entryOf, updateOf, type JournalEntry } from '../run/journal.ts'
import { MEAN_LOSS, type Objective } from './objective.ts'
import { foldOverdue, startFold } from '../engine/forward.ts'

export interface StepInput {
  /** Micro-batches: all are seen by the same probes; their tokens count alike. */
  readonly batches: readonly Batch[]
  /** What to make smaller; the mean loss over labelled tokens by default. */
  readonly objective?: Objective
  /** 0-based. */
  readonly step: number
  readonly lr: number
  readonly eps: number
  readonly weightDecay: number
  /** Makes the entry durable; the step takes effect only after it resolves. */
  readonly append: (entry: JournalEntry) => Promise<void>
}

/**
 * One step of training. Returns the journal entry. With a non-finite loss the entry is marked as
 * skipped with projected_grad 0, and the weights stay as they are.
 */
export async function zoStep(engine: Engine, input: StepInput): Promise<JournalEntry> {
  const { estimator } = engine.options
  const { step, lr, eps, weightDecay, objective = MEAN_LOSS } = input

  const fold = engine.state.begin(step)
  if (fold) await startFold(engine, fold)
  await foldOverdue(engine, 0)

  const probe = { step, probes: estimator.probes(eps) }
  const totals = probe.probes.map(() => ({ sum: 0, count: 0 }))
  for (const batch of input.batches) {
    const measured = await objective(engine, batch, probe)
    totals.forEach((total, p) => {
      total.sum += measured[p]!.sum
      total.count += measured[p]!.count
    })
  }
  const losses = totals.map(({ sum, count }) => sum / count)

  const entry = entryOf({ step, lr, eps }, losses, estimator)
  await input.append(entry)

  if (!entry.skipped) engine.push(updateOf(entry, weightDecay))
  return entry
}
