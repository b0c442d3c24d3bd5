// What a step minimises, as data: which outputs of the model it reads, and the score of one probe's
// outputs. Most objectives score token losses (loss.ts), which one forward pass gives for
// all probes; those that read generated text run the probes one by one.

import type { Config } from '../config/options.ts'
import { f1Score } from '../data/tasks/metrics.ts'
import type { PackedBatch } from '../data/packing.ts'
import { IGNORED, type Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { NotFiniteError } from '../engine/finite.ts'
import { answersTo } from '../generate/answers.ts'
import type { Probes } from '../methods/method.ts'
import { UserError } from '../util/errors.ts'
import type { Totals } from './exchange.ts'
import { labelLogits, type LabelLogits } from './logits.ts'
import { optionCrossEntropy, optionError, tokenMean, type Total } from './loss.ts'

export type Objective = LossObjective | OutputObjective

/** From the losses [L] of one probe, text by text. */
interface LossObjective {
  readonly kind: 'losses'
  readonly score: (losses: Float64Array, batch: PackedBatch) => Total | Promise<Total>
}

/** One that looks at more than losses. */
type OutputObjective =
  | {
      readonly kind: 'logits'
      readonly score: (logits: LabelLogits, batch: PackedBatch) => Total | Promise<Total>
    }
  | {
      readonly kind: 'answers'
      readonly tokenizer: Tokenizer
      /** Tokens of an answer at most. */
      readonly maxNewTokens: number
      /** From greedily generated answers, in the order of the batch's examples (or texts). */
      readonly score: (answers: readonly string[], batch: PackedBatch) => Total | Promise<Total>
    }

/** Mean cross-entropy over labelled tokens. */
export const MEAN_LOSS: Objective = { kind: 'losses', score: tokenMean }

/** The objective of --objective, --train-as-classification and --max-new-tokens. */
export function objectiveOf(
  config: Pick<Config, 'objective' | 'trainAsClassification' | 'maxNewTokens'>,
  tokenizer: Tokenizer | null,
): Objective {
  if (config.trainAsClassification) return { kind: 'losses', score: optionCrossEntropy }
  if (config.objective === 'accuracy') return { kind: 'losses', score: optionError }
  if (config.objective === 'loss') return MEAN_LOSS
  if (!tokenizer) throw new Error('an objective of answers needs a tokenizer')
  return { kind: 'answers', tokenizer, maxNewTokens: config.maxNewTokens, score: f1Error }
}

/** Whether every option of an example is a text of the batches that the objective looks at. */
export const comparesOptions = (
  config: Pick<Config, 'objective' | 'trainAsClassification'>,
): boolean => config.trainAsClassification || config.objective === 'accuracy'

/** Mean of 1 - F1, not differentiable: MeZO's objective for SQuAD, up to the constant. */
function f1Error(answers: readonly string[], { examples = [] }: PackedBatch): Total {
  if (examples.length === 0 || !examples.every((example) => example.generation)) {
    throw new UserError('the objective f1 needs batches with examples of a generation task')
  }
  const errors = answers.map((answer, i) => 1 - f1Score(answer, examples[i]!.generation!.golds))
  return { sum: errors.reduce((a, b) => a + b, 0), count: errors.length }
}

/** The totals of an objective of losses, for each probe. */
export async function scoreLosses(
  losses: readonly Float64Array[],
  batch: PackedBatch,
  { score }: LossObjective,
): Promise<Totals> {
  const totals: Total[] = []
  for (const ofProbe of losses) totals.push(await score(ofProbe, batch))
  return totals
}

/** The totals of an objective that looks at logits or answers, for each probe. */
export async function scoreOutputs(
  engine: Engine,
  batch: PackedBatch,
  probes: Probes,
  objective: OutputObjective,
): Promise<Totals> {
  const totals: Total[] = []
  if (objective.kind === 'logits') {
    for (const logits of await labelLogits(engine, batch, probes)) {
      totals.push(await objective.score(logits, batch))
    }
    return totals
  }
  const prompts = promptsOf(batch)
  const { tokenizer, maxNewTokens } = objective
  for (const probe of probes.list) {
    const one = { step: probes.step, list: [probe] }
    try {
      const answers = await answersTo(engine, prompts, tokenizer, { maxNewTokens, probes: one })
      totals.push(await objective.score(answers, batch))
    } catch (error) {
      // No answers are no score: the step is skipped.
      if (!(error instanceof NotFiniteError)) throw error
      totals.push({ sum: NaN, count: 1 })
    }
  }
  return totals
}

/** The prompts of generation tasks, else of each text the tokens before its first label. */
function promptsOf(batch: PackedBatch): (readonly number[])[] {
  return batch.texts.map(({ inputIds, labels }, i) => {
    const task = batch.choices ? undefined : batch.examples?.[i]?.generation
    if (task) return task.prompt
    const first = labels.findIndex((label) => label !== IGNORED)
    const prompt = inputIds.slice(0, first < 0 ? inputIds.length : first)
    if (prompt.length > 0) return prompt
    throw new UserError(`row ${i} of the batch has no token before its first label to continue`)
  })
}
