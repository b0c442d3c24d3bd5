// ONE ZEROTH-ORDER STEP, top to bottom (MeZO, arXiv 2305.17333; streaming as in ZO2, 2503.12668):
//
//   fold updates owed, if there are K of them         weights' overlay, in the background
//   for each micro-batch: one forward of all probes   slabs stream through the device once
//   loss+, loss- = mean over all labelled tokens      the only wait
//   g = (loss+ - loss-) / (2 eps)                     finite, or the step is skipped
//   journal.append(step, lr, eps, g, ...)             durable before anything uses it
//   trajectory.push(-lr*g); vectors updated           matrices: replayed at their next upload
//
// Weights are never written here: theta_t is theta_0 plus the trajectory.

import type { Batch } from './data/types.ts'
import type { Engine } from './engine.ts'
import type { JournalEntry } from './journal.ts'
import { labelledRows } from './loss.ts'
import { terms } from './methods/perturbation.ts'
import { foldOwed, forward } from './run.ts'

export interface StepInput {
  /** Micro-batches: all are seen by the same probes; their tokens count alike. */
  readonly batches: readonly Batch[]
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
  const { method } = engine.options
  const { step, lr, eps, weightDecay } = input

  await foldOwed(engine, engine.options.replayWindow)

  const probe = { step, scales: method.scales(eps) }
  const sums = probe.scales.map(() => 0)
  let tokens = 0
  for (const batch of input.batches) {
    const { rows, targets } = labelledRows(batch)
    const losses = await forward(engine, batch, probe, { kind: 'loss', rows, targets })
    losses.forEach((ofProbe, p) => (sums[p]! += ofProbe.reduce((sum, loss) => sum + loss, 0)))
    tokens += rows.length
  }
  const [lossPlus, lossMinus] = sums.map((sum) => sum / tokens) as [number, number]

  const g = method.projectedGrad([lossPlus, lossMinus], eps)
  const entry: JournalEntry = Number.isFinite(g)
    ? { step, lr, eps, projected_grad: g, loss_plus: lossPlus, loss_minus: lossMinus }
    : { step, lr, eps, projected_grad: 0, loss_plus: null, loss_minus: null, skipped: true }
  await input.append(entry)

  if (!entry.skipped) {
    const update = method.update(g, { step, lr, eps, weightDecay })
    engine.updates.push(update)
    engine.vectors.update((name) => terms(engine.options.seed, name, [update]))
  }
  return entry
}
