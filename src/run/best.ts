// Which evaluation is the best one, and since when there was no better: pure functions of all
// evaluations so far, so that a resumed run decides as the one that was not interrupted.

import type { Config } from '../config/options.ts'
import { UserError } from '../util/errors.ts'

/** The figures of an evaluation after `step` steps, by name. */
export type Scored = Readonly<Record<string, number>> & { readonly step: number }

/** What makes an evaluation better than another. */
export interface Criterion {
  /** Name of the figure, without Hugging Face's eval_ in front. */
  readonly metric: string
  readonly greaterIsBetter: boolean
}

/** The options that choose it. */
export interface CriterionOptions {
  readonly metricForBestModel?: Config['metricForBestModel'] | undefined
  readonly greaterIsBetter?: Config['greaterIsBetter'] | undefined
}

/** The criterion of --metric-for-best-model and --greater-is-better. */
export function criterionOf(config: CriterionOptions): Criterion {
  const metric = (config.metricForBestModel ?? 'loss').replace(/^eval_/, '')
  return { metric, greaterIsBetter: config.greaterIsBetter ?? !/(loss|perplexity)$/.test(metric) }
}

interface Best {
  readonly step: number
  readonly value: number
}

/**
 * The best evaluation: the first of equals, none that is not finite. null if there is none.
 * @throws UserError if evaluations do not have the figure
 */
export function bestOf(evaluations: readonly Scored[], criterion: Criterion): Best | null {
  let best: Best | null = null
  for (const evaluation of evaluations) {
    const value = valueOf(evaluation, criterion.metric)
    if (isBetter(value, best, criterion, 0)) best = { step: evaluation.step, value }
  }
  return best
}

/** Evaluations at the end that are not better than the best before them by more than `threshold`. */
export function withoutImprovement(
  evaluations: readonly Scored[],
  criterion: Criterion,
  threshold: number,
): number {
  let best: Best | null = null
  let count = 0
  for (const evaluation of evaluations) {
    const { step } = evaluation
    const value = valueOf(evaluation, criterion.metric)
    count = isBetter(value, best, criterion, threshold) ? 0 : count + 1
    if (isBetter(value, best, criterion, 0)) best = { step, value }
  }
  return count
}

function isBetter(value: number, best: Best | null, criterion: Criterion, threshold: number) {
  if (!Number.isFinite(value)) return false
  if (!best) return true
  const gain = criterion.greaterIsBetter ? value - best.value : best.value - value
  return gain > threshold
}

function valueOf(evaluation: Scored, metric: string): number {
  const value = evaluation[metric]
  // JSON knows no NaN: evals.jsonl has null for it.
  if (value === null) return NaN
  if (value !== undefined) return value
  const known = Object.keys(evaluation).filter((name) => name !== 'step')
  throw new UserError(
    `--metric-for-best-model ${metric}: evaluations have no such figure; they have ${known.join(', ')}`,
    { exitCode: 2 },
  )
}
