// Scores examples as their task wants it: token loss and options by evaluate.ts, and for generation
// tasks F1 and exact match of greedily generated answers.

import { exactMatch, f1Score } from './data/tasks/metrics.ts'
import type { Example, Tokenizer } from './data/types.ts'
import type { Engine } from './engine.ts'
import { evaluateExamples, type EvaluateOptions, type Evaluation } from './evaluate.ts'
import { answersTo } from './objective.ts'

export interface ScoreOptions extends EvaluateOptions {
  readonly tokenizer: Tokenizer
  /** Tokens of a generated answer at most. */
  readonly maxNewTokens: number
}

/** Everything that can be said of the examples: loss, and accuracy or F1 and exact match. */
export async function scoreExamples(
  engine: Engine,
  examples: readonly Example[],
  options: ScoreOptions,
): Promise<Evaluation> {
  const evaluation = await evaluateExamples(engine, examples, options)
  if (!examples[0]?.generation) return evaluation
  const { batchSize, tokenizer, maxNewTokens, onProgress } = options
  let [f1, exact] = [0, 0]
  for (let i = 0; i < examples.length; i += batchSize) {
    const asked = examples.slice(i, i + batchSize).map((example) => example.generation!)
    const prompts = asked.map(({ prompt }) => prompt)
    const answers = await answersTo(engine, prompts, tokenizer, { maxNewTokens })
    answers.forEach((answer, j) => {
      f1 += f1Score(answer, asked[j]!.golds)
      exact += Number(exactMatch(answer, asked[j]!.golds))
    })
    onProgress?.(i + asked.length, examples.length)
  }
  return { ...evaluation, f1: f1 / examples.length, exact_match: exact / examples.length }
}
