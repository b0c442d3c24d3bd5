// Which rows of a batch carry a label, what they should predict, and what becomes of their losses:
// labels[t] is predicted from row t - 1, as in Hugging Face's causal language models. The scores here
// are functions of one probe's losses.

import { IGNORED, type Batch, type Choice } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import { maxOf } from '../util/extremes.ts'

/**
 * Row indices b*T + t (t the position before the label) and vocabulary targets, in row order.
 * @throws UserError if no token carries a label
 */
export function labelledRows(batch: Batch): { rows: Uint32Array; targets: Uint32Array } {
  const rows: number[] = []
  const targets: number[] = []
  batch.labels.forEach((labels, b) => {
    for (let t = 1; t < labels.length; t++) {
      if (labels[t] === IGNORED) continue
      rows.push(b * batch.inputIds[b]!.length + t - 1)
      targets.push(labels[t]!)
    }
  })
  if (rows.length === 0) {
    throw new UserError('a batch has no labelled token: every label is -100 (or stands first)')
  }
  return { rows: Uint32Array.from(rows), targets: Uint32Array.from(targets) }
}

/** A sum and what to divide it by; those of micro-batches add up. */
export interface Total {
  readonly sum: number
  readonly count: number
}

/** What a step makes smaller, from the losses [M] of one probe's labelled rows, in row order. */
type LossScore = (losses: Float64Array, batch: Batch) => Total

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
  batch: Batch,
  score: (logits: readonly number[], choice: Choice) => number,
): Total {
  if (!batch.choices) {
    throw new UserError(
      'the objective compares options, but the batch has none: collate examples with options',
    )
  }
  const means = sequenceLosses(losses, batch).map(({ sum, count }) => -sum / count)
  const scores = batch.choices.map((choice) =>
    score(means.slice(choice.first, choice.first + choice.count), choice),
  )
  return { sum: scores.reduce((a, b) => a + b, 0), count: scores.length }
}

/** Sum of the losses and number of labelled tokens of each sequence of the batch. */
export function sequenceLosses(losses: Float64Array, batch: Batch): Total[] {
  let i = 0
  return batch.labels.map((labels) => {
    let [sum, count] = [0, 0]
    for (let t = 1; t < labels.length; t++) {
      if (labels[t] === IGNORED) continue
      sum += losses[i++]!
      count++
    }
    return { sum, count }
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
