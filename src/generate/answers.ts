// Answers of generation tasks: greedy, to the end of a line, as MeZO reads them.
// Scores of answers are src/data/tasks/metrics.ts's.

import type { Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { generateMany, type GenerateOptions } from './generate.ts'

/** The token of a line's end: the last one, where a tokenizer puts a space before every text. */
const lineEnd = (tokenizer: Tokenizer) => tokenizer.encode('\n', { bos: false }).slice(-1)

interface AnswerOptions extends Pick<GenerateOptions, 'maxNewTokens' | 'probes'> {
  /** Called often with how many are done at least, a fraction. */
  readonly onProgress?: (done: number) => void
}

/** Greedy answers that end at a line's end, without the spaces around them, as MeZO reads them. */
export async function answersTo(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  tokenizer: Tokenizer,
  { onProgress, ...options }: AnswerOptions,
): Promise<string[]> {
  const eosIds = [...tokenizer.eosIds, ...lineEnd(tokenizer)]
  const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, eosIds }
  const made = await generateMany(engine, prompts, { ...greedy, ...options }, onProgress)
  return made.map((ids) => tokenizer.decode(ids, { skipSpecial: true }).trim())
}
