// Answers of generation tasks: greedy, to the end of a line, as MeZO reads them.
// Scores of answers are src/data/tasks/metrics.ts's.

import type { Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { generateInSweeps, type GenerateOptions } from './generate.ts'

/** The token of a line's end: the last one, where a tokenizer puts a space before every text. */
const lineEnd = (tokenizer: Tokenizer) => tokenizer.encode('\n', { bos: false }).slice(-1)

type AnswerOptions = Pick<GenerateOptions, 'maxNewTokens' | 'probes' | 'onToken'>

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
