// What becomes of the losses of a batch's labels: scores, as functions of one probe's losses. Which rows
// they are predicted from is src/data/packing.ts's matter.

import type { PackedBatch } from '../data/packing.ts'
import type { Choice } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import { maxOf } from '../util/extremes.ts'

/** A sum and what to divide it by; those of micro-batches add up. */
export interface Total {
  readonly sum: number
  readonly count: number
}

/** What a step makes smaller, from the losses [L] of one probe, text by text. */
type LossScore = (losses: Float64Array, batch: PackedBatch) => Total

/** Mean cross-entropy over labelled tokens, nats. */
export const tokenMean: LossScore = (losses) => ({
  sum: losses.reduce((sum, loss) => sum + loss, 0),
  count: losses.length,
})

/**
 * MeZO's classification loss: cross-entropy of the right option among an example's options, whose
 * logits are the mean log-probabilities of their answer tokens; mean over examples. Every option has
 * its own number of tokens, and every example may have its own number of options.
 */
export const optionCrossEntropy: LossScore = (losses, batch) =>
  overChoices(losses, batch, (logits, { right }) => -logSoftmax(logits, right[0]!))

/** 1 - accuracy: the share of examples whose best option is not a right one. Not differentiable. */
export const optionError: LossScore = (losses, batch) =>
  overChoices(losses, batch, (logits, { right }) => Number(!right.includes(best(logits))))

function overChoices(
  losses: Float64Array,
  batch: PackedBatch,
  score: (logits: readonly number[], choice: Choice) => number,
): Total {
  if (!batch.choices) {
    throw new UserError(
      'the objective compares options, but the batch has none: collate examples with options',
    )
  }
  const means = textLosses(losses, batch).map(({ sum, count }) => -sum / count)
  const scores = batch.choices.map((choice) =>
    score(means.slice(choice.first, choice.first + choice.count), choice),
  )
  return { sum: scores.reduce((a, b) => a + b, 0), count: scores.length }
}

/** Sum of the losses and number of labels of each text, which has `counts` of them. */
export function textLosses(losses: Float64Array, { counts }: Pick<PackedBatch, 'counts'>): Total[] {
  let next = 0
  return counts.map((count) => {
    const own = losses.subarray(next, (next += count))
    return { sum: own.reduce((sum, loss) => sum + loss, 0), count }
  })
}

/** Log-probability of one of the logits, in f64. */
export function logSoftmax(logits: readonly number[], index: number): number {
  const most = maxOf(logits)
  const sum = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)
  return logits[index]! - most - Math.log(sum)
}

/** Index of the largest; the first of equals, -1 if any is NaN, so that it counts as wrong. */
export const best = (logits: readonly number[]) => logits.indexOf(maxOf(logits))
