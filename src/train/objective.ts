// What a step makes smaller. Most objectives are functions of each probe's token losses (loss.ts), so
// that one forward pass serves all probes; one that reads generated text runs the probes one by one.

import { lossesOf } from '../engine/split.ts'
import { NotFiniteError } from '../engine/finite.ts'
import type { Config } from '../config/options.ts'
import { f1Score } from '../data/tasks/metrics.ts'
import type { Batch, Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { generateInSweeps, type GenerateOptions } from '../generate/generate.ts'
import {
  labelledRows,
  optionCrossEntropy,
  optionError,
  tokenMean,
  type LossScore,
  type Total,
} from './loss.ts'
import type { Probe } from '../methods/method.ts'

/** Sum and count of a batch for every probe. */
export type Objective = (engine: Engine, batch: Batch, probe: Probe) => Promise<readonly Total[]>

/** An objective from the losses of labelled rows. */
export const ofLosses =
  (score: LossScore): Objective =>
  async (engine, batch, probe) => {
    const { rows, targets } = labelledRows(batch)
    const losses = await lossesOf(engine, batch, probe, { rows, targets })
    return losses.map((ofProbe) => score(ofProbe, batch))
  }

/** Mean cross-entropy over labelled tokens. */
export const MEAN_LOSS = ofLosses(tokenMean)

/** From greedily generated answers: the number to make smaller for each example. */
export type AnswerScore = (answer: string, golds: readonly string[]) => number

/** 1 - F1, not differentiable: MeZO's objective for SQuAD, up to the constant. */
export const f1Error: AnswerScore = (answer, golds) => 1 - f1Score(answer, golds)

/** An objective from generated answers; the batch's examples must be of a generation task. */
export const ofAnswers =
  (score: AnswerScore, tokenizer: Tokenizer, maxNewTokens: number): Objective =>
  async (engine, { examples = [] }, { step, probes }) => {
    if (examples.length === 0 || !examples.every((example) => example.generation)) {
      throw new UserError('the objective f1 needs batches with examples of a generation task')
    }
    const asked = examples.map(({ generation }) => generation!)
    const prompts = asked.map(({ prompt }) => prompt)
    const totals: Total[] = []
    for (const one of probes) {
      const probe = { step, probes: [one] }
      const answers = await answersTo(engine, prompts, tokenizer, { maxNewTokens, probe }).catch(
        (error: unknown) => {
          if (error instanceof NotFiniteError) return null
          throw error
        },
      )
      // No answers are no score: the step is skipped.
      const scores = answers?.map((answer, i) => score(answer, asked[i]!.golds)) ?? [NaN]
      totals.push({ sum: scores.reduce((a, b) => a + b, 0), count: scores.length })
    }
    return totals
  }

/** The objective of --objective, --train-as-classification and --max-new-tokens. */
export function objectiveOf(
  config: Pick<Config, 'objective' | 'trainAsClassification' | 'maxNewTokens'>,
  tokenizer: Tokenizer | null,
): Objective {
  if (config.trainAsClassification) return ofLosses(optionCrossEntropy)
  if (config.objective === 'accuracy') return ofLosses(optionError)
  if (config.objective === 'loss') return MEAN_LOSS
  if (!tokenizer) throw new Error('an objective of answers needs a tokenizer')
  return ofAnswers(f1Error, tokenizer, config.maxNewTokens)
}

/** The token of a line's end: the last one, where a tokenizer puts a space before every text. */
const lineEnd = (tokenizer: Tokenizer) => tokenizer.encode('\n', { bos: false }).slice(-1)

type AnswerOptions = Pick<GenerateOptions, 'maxNewTokens' | 'probe' | 'onToken'>

/** Greedy answers that end at a line's end, without the spaces around them, as MeZO reads them. */
export async function answersTo(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  tokenizer: Tokenizer,
  options: AnswerOptions,
): Promise<string[]> {
  return (await answersInBatches(engine, [prompts], tokenizer, options))[0]!
}

/** `answersTo` for batches of prompts, as many of them at once as fit. */
export async function answersInBatches(
  engine: Engine,
  batches: readonly (readonly (readonly number[])[])[],
  tokenizer: Tokenizer,
  options: AnswerOptions,
): Promise<string[][]> {
  const { padId } = tokenizer
  const eosIds = [...tokenizer.eosIds, ...lineEnd(tokenizer)]
  const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, padId, eosIds }
  const made = await generateInSweeps(engine, batches, { ...greedy, ...options })
  return made.map((texts) => {
    return texts.map((ids) => tokenizer.decode(ids, { skipSpecial: true }).trim())
  })
}
