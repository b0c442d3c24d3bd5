// What a program's run minimises: one of the command line's objectives by name, or one that it brings
// along: a function of logits, token losses or generated texts that gives a number for each example. It
// need not be differentiable.

import { OPTIONS, type Config } from '../config/options.ts'
import { parseValue } from '../config/values.ts'
import type { PackedBatch } from '../data/packing.ts'
import type { Batch, Tokenizer } from '../data/types.ts'
import type { LabelLogits } from '../train/logits.ts'
import type { Total } from '../train/loss.ts'
import { comparesOptions, objectiveOf, type Objective } from '../train/objective.ts'
import { UserError } from '../util/errors.ts'

/** A number for each example. */
export type Scores = readonly number[] | Promise<readonly number[]>

/** A number for each example, from the logits at its labelled tokens: logits[b][i] is [V]. */
export type LogitsScore = (logits: LabelLogits, batch: Batch) => Scores
/** From the cross-entropies, nats, of its labelled tokens: losses[b][i]. Cheaper: no logits travel. */
export type LossesScore = (losses: readonly (readonly number[])[], batch: Batch) => Scores
/** From the greedy continuation of its prompt: the tokens before its first labelled one. */
export type TextScore = (generations: readonly string[], batch: Batch) => Scores

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

export interface Goal {
  /** loss, accuracy, f1, or an objective of one's own. */
  readonly objective?: Config['objective'] | CustomObjective | undefined
  /** loss: the cross-entropy over options instead. */
  readonly trainAsClassification?: boolean | undefined
  /** f1: tokens of an answer at most; 50 by default. */
  readonly maxNewTokens?: number | undefined
}

/** Where text comes from, if an objective reads any. */
interface TextSource {
  tokenizer(): Promise<Tokenizer>
}

/** An objective, and what batches it wants. */
export interface ResolvedGoal {
  readonly objective: Objective
  /** Whether a batch without labels is of no use. */
  readonly needsLabels: boolean
  /** Whether every option of an example is a row of the batch. */
  readonly options: boolean
}

const NAMES = ['loss', 'accuracy', 'f1']

/** @throws UserError for a name that is none, and goals that exclude each other */
export async function goalOf(source: TextSource, goal: Goal): Promise<ResolvedGoal> {
  const { objective = 'loss', trainAsClassification = false, maxNewTokens = 50 } = goal
  parseValue('maxNewTokens', OPTIONS.maxNewTokens.schema, maxNewTokens)
  if (trainAsClassification && objective !== 'loss') {
    throw new UserError('trainAsClassification is a loss; leave it or the objective out')
  }
  if (typeof objective !== 'string') return customGoal(source, objective)
  if (!NAMES.includes(objective)) {
    throw new UserError(
      `objective: expected loss, accuracy, f1, a function or { of, score }, found ${JSON.stringify(objective)}`,
    )
  }
  const text = objective === 'f1'
  const config = { objective, trainAsClassification, maxNewTokens }
  return {
    objective: objectiveOf(config, text ? await source.tokenizer() : null),
    needsLabels: !text,
    options: comparesOptions(config),
  }
}

async function customGoal(source: TextSource, custom: CustomObjective): Promise<ResolvedGoal> {
  const spec = typeof custom === 'function' ? { of: 'logits' as const, score: custom } : custom
  if (typeof spec?.score !== 'function') {
    throw new UserError(
      'objective: expected a name, a function, or { of, score } with a function as score',
    )
  }
  const text = spec.of === 'generations'
  const objective = await customObjective(source, spec)
  return { objective, needsLabels: !text, options: false }
}

/** Its steps fail with a UserError if `score` gives something else than numbers. */
async function customObjective(
  source: TextSource,
  spec: Exclude<CustomObjective, LogitsScore>,
): Promise<Objective> {
  switch (spec.of) {
    case 'logits':
      return {
        kind: 'logits',
        score: async (logits, batch) => total(await spec.score(logits, batch.given!), batch),
      }
    case 'losses':
      return {
        kind: 'losses',
        score: async (losses, batch) => {
          let next = 0
          const ofRows = batch.counts.map((n) => [...losses.subarray(next, (next += n))])
          return total(await spec.score(ofRows, batch.given!), batch)
        },
      }
    case 'generations':
      return {
        kind: 'answers',
        tokenizer: await source.tokenizer(),
        maxNewTokens: spec.maxNewTokens ?? 50,
        score: async (texts, batch) => total(await spec.score(texts, batch.given!), batch),
      }
    default:
      throw new UserError(
        `objective.of: expected logits, losses or generations, found ${JSON.stringify((spec as { of: unknown }).of)}`,
      )
  }
}

function total(scores: readonly number[], batch: PackedBatch): Total {
  const count = batch.choices?.length ?? batch.texts.length
  const numbers = Array.isArray(scores) && scores.every((score) => typeof score === 'number')
  if (!numbers || scores.length !== count) {
    throw new UserError(
      `the objective must give ${count} numbers, one for each example of the batch; found ${numbers ? `${scores.length} of them` : String(scores).slice(0, 60)}`,
    )
  }
  return { sum: scores.reduce((sum, score) => sum + score, 0), count }
}
