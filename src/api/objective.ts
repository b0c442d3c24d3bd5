// Objectives that a program brings along: a function of logits, token losses or generated texts that
// gives a number for each example, which training makes smaller. It need not be differentiable.

import { lossesOf } from '../engine/split.ts'
import { IGNORED, type Batch, type Tokenizer } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import { labelCounts, labelLogits, type LabelLogits } from '../train/logits.ts'
import { labelledRows, type Total } from '../train/loss.ts'
import { answersTo, type Objective } from '../train/objective.ts'

type Numbers = readonly number[] | Promise<readonly number[]>

/** A number for each example, from the logits at its labelled tokens: logits[b][i] is [V]. */
export type LogitsScore = (logits: LabelLogits, batch: Batch) => Numbers
/** From the cross-entropies, nats, of its labelled tokens: losses[b][i]. Cheaper: no logits travel. */
export type LossesScore = (losses: readonly (readonly number[])[], batch: Batch) => Numbers
/** From the greedy continuation of its prompt: the tokens before its first labelled one. */
export type TextScore = (generations: readonly string[], batch: Batch) => Numbers

/**
 * What to make smaller: the mean over examples of what `score` gives, one number for each. An example
 * is a sequence of the batch, or an entry of `choices` where the batch has them.
 */
export type CustomObjective =
  | LogitsScore
  | { readonly of: 'logits'; readonly score: LogitsScore }
  | { readonly of: 'losses'; readonly score: LossesScore }
  | {
      readonly of: 'generations'
      readonly score: TextScore
      /** Tokens of a generated text at most, which also ends at a line's end; 50 by default. */
      readonly maxNewTokens?: number
    }

/** Whether a custom objective reads text, so that batches need no labels and it needs a tokenizer. */
export const readsText = (custom: CustomObjective) =>
  typeof custom === 'object' && custom.of === 'generations'

/**
 * The objective of a step.
 * @throws UserError for what is no objective; its steps, for a score that gives other than numbers
 */
export function customObjective(custom: CustomObjective, tokenizer: Tokenizer | null): Objective {
  const spec = typeof custom === 'function' ? { of: 'logits' as const, score: custom } : custom
  if (typeof spec?.score !== 'function') {
    throw new UserError(
      'objective: expected a name, a function, or { of, score } with a function as score',
    )
  }
  switch (spec.of) {
    case 'logits':
      return async (engine, batch, probe) => {
        const totals: Total[] = []
        for (const logits of await labelLogits(engine, batch, probe)) {
          totals.push(total(await spec.score(logits, batch), batch))
        }
        return totals
      }
    case 'losses':
      return async (engine, batch, probe) => {
        const { rows, targets } = labelledRows(batch)
        const counts = labelCounts(batch)
        const totals: Total[] = []
        for (const losses of await lossesOf(engine, batch, probe, { rows, targets })) {
          let next = 0
          const ofRows = counts.map((count) => [...losses.subarray(next, (next += count))])
          totals.push(total(await spec.score(ofRows, batch), batch))
        }
        return totals
      }
    case 'generations':
      if (!tokenizer) throw new Error('an objective of texts needs a tokenizer')
      return async (engine, batch, { step, probes }) => {
        const prompts = promptsOf(batch)
        const maxNewTokens = spec.maxNewTokens ?? 50
        const totals: Total[] = []
        for (const one of probes) {
          const probe = { step, probes: [one] }
          const texts = await answersTo(engine, prompts, tokenizer, { maxNewTokens, probe })
          totals.push(total(await spec.score(texts, batch), batch))
        }
        return totals
      }
    default:
      throw new UserError(
        `objective.of: expected logits, losses or generations, found ${JSON.stringify((spec as { of: unknown }).of)}`,
      )
  }
}

function total(scores: readonly number[], batch: Batch): Total {
  const count = batch.choices?.length ?? batch.inputIds.length
  const numbers = Array.isArray(scores) && scores.every((score) => typeof score === 'number')
  if (!numbers || scores.length !== count) {
    throw new UserError(
      `the objective must give ${count} numbers, one for each example of the batch; found ${numbers ? `${scores.length} of them` : String(scores).slice(0, 60)}`,
    )
  }
  return { sum: scores.reduce((sum, score) => sum + score, 0), count }
}

/** The prompts of generation tasks, else of each row the real tokens before its first label. */
function promptsOf(batch: Batch): number[][] {
  return batch.inputIds.map((ids, b) => {
    const task = batch.choices ? undefined : batch.examples?.[b]?.generation
    if (task) return [...task.prompt]
    const first = batch.labels[b]!.findIndex((label) => label !== IGNORED)
    const end = first < 0 ? ids.length : first
    const prompt = ids.slice(0, end).filter((_, t) => batch.attentionMask[b]![t] === 1)
    if (prompt.length > 0) return prompt
    throw new UserError(`row ${b} of the batch has no token before its first label to continue`)
  })
}
