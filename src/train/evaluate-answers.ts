// Scores examples as their task wants it: token loss and options by evaluate.ts, and for generation
// tasks F1 and exact match of greedily generated answers. Batches share uploads of the weights in both.

import { exactMatch, f1Score } from '../data/tasks/metrics.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { notFinite } from '../engine/finite.ts'
import { evaluateExamples, type EvaluateOptions, type Evaluation } from './evaluate.ts'
import { answersInBatches } from './objective.ts'

export interface ScoreOptions extends EvaluateOptions {
  readonly tokenizer: Tokenizer
  /** Tokens of a generated answer at most. */
  readonly maxNewTokens: number
}

/** @throws NotFiniteError if the evaluation's loss is no number */
export function checkedEvaluation(engine: Engine, evaluation: Evaluation): Evaluation {
  if (Number.isFinite(evaluation.loss)) return evaluation
  throw notFinite(engine, 'the logits')
}

/** Everything that can be said of the examples: loss, and accuracy or F1 and exact match. */
export async function scoreExamples(
  engine: Engine,
  examples: readonly Example[],
  options: ScoreOptions,
): Promise<Evaluation> {
  const evaluation = await evaluateExamples(engine, examples, options)
  if (!examples[0]?.generation) return evaluation
  // What such weights would say means nothing.
  if (!Number.isFinite(evaluation.loss)) return { ...evaluation, f1: NaN, exact_match: NaN }
  const { batchSize, tokenizer, maxNewTokens, onProgress } = options
  const asked = examples.map((example) => example.generation!)
  const batches = Array.from({ length: Math.ceil(asked.length / batchSize) }, (_, i) => {
    return asked.slice(i * batchSize, (i + 1) * batchSize).map(({ prompt }) => prompt)
  })
  // Most answers are shorter than they may be: what is done is at least this.
  let tokens = 0
  const share = asked.length / (batches.length * maxNewTokens)
  const onToken = () => onProgress?.(Math.floor(++tokens * share), asked.length)
  const made = await answersInBatches(engine, batches, tokenizer, { maxNewTokens, onToken })
  onProgress?.(asked.length, asked.length)
  let [f1, exact] = [0, 0]
  made.flat().forEach((answer, i) => {
    f1 += f1Score(answer, asked[i]!.golds)
    exact += Number(exactMatch(answer, asked[i]!.golds))
  })
  return { ...evaluation, f1: f1 / asked.length, exact_match: exact / asked.length }
}
