// A task's sample as token sequences, as MeZO encodes it: prompt and answer are tokenized together,
// the answer is as many tokens longer as the two texts are, and what is too long loses its left end
// but keeps BOS. Source: princeton-nlp/MeZO, large_models/utils.py, `encode_prompt`.

import { UserError } from '../../util/errors.ts'
import { quote } from '../../util/untrusted.ts'
import { fitContext } from '../sequences.ts'
import { IGNORED, type Example, type Sequence, type Tokenizer } from '../types.ts'
import type { TaskSample } from './types.ts'

const SEPARATOR = '\n\n'

export interface EncodeOptions {
  /** Tokens per sequence at most; for generation tasks what is left after room for the answer. */
  readonly maxLength: number
  /** Solved examples in front of every prompt (in-context learning). */
  readonly demonstrations: readonly TaskSample[]
  /** Train on the answer alone; otherwise on the prompt too. Options are scored by answers always. */
  readonly onlyAnswer: boolean
  /** Add content-free prompts to calibrate with: alone, or after the demonstrations. */
  readonly calibration: 'none' | 'sfc' | 'icl-sfc'
}

interface Encoded {
  readonly example: Example
  /** Whether a sequence lost tokens to maxLength. */
  readonly truncated: boolean
}

/**
 * @param place of the sample's row, for messages
 * @throws UserError where an answer adds no token to its prompt, or has none before it
 */
export function encodeSample(
  sample: TaskSample,
  place: string,
  tokenizer: Tokenizer,
  options: EncodeOptions,
): Encoded {
  const { maxLength, onlyAnswer, calibration } = options
  const shown = options.demonstrations.map((d) => d.solved.trim()).join(SEPARATOR) + SEPARATOR
  const inContext = (text: string) => stripSpaces((shown + text).trimStart())
  const keep = tokenizer.encode('').length
  let truncated = false
  const fit = (text: string) => {
    const ids = tokenizer.encode(text)
    truncated ||= ids.length > maxLength
    return fitContext(ids, keep, maxLength)
  }
  const answered = (prompt: string, texts: readonly string[], whole = inContext): Sequence[] => {
    const promptTokens = tokenizer.encode(stripSpaces(prompt)).length
    return texts.map((text) => {
      const answerTokens = tokenizer.encode(text).length - promptTokens
      if (answerTokens < 1) {
        throw new UserError(`${place}: the answer in ${quote(text.slice(-40))} is empty`)
      }
      const placed = whole(text)
      if (tokenizer.encode(placed).length <= answerTokens) {
        throw new UserError(
          `${place}: nothing stands before the answer ${quote(text.slice(-40))}, and this tokenizer ` +
            `puts no token before a text, so the answer cannot be scored: leave out --sfc`,
        )
      }
      return labelledEnd(fit(placed), answerTokens)
    })
  }
  const trained = (sequence: Sequence) =>
    onlyAnswer ? sequence : labelledEnd(sequence.inputIds, Infinity)

  if (sample.golds) {
    const [solved] = answered(sample.prompt, [sample.solved])
    const generation = { prompt: fit(inContext(stripSpaces(sample.prompt))), golds: sample.golds }
    return { example: { ...trained(solved!), generation }, truncated }
  }
  const sequences = answered(sample.prompt, sample.options.map(stripSpaces))
  const { right, contentFree } = sample
  const [answer] = right
  const example = { ...trained(sequences[answer!]!), options: sequences, answer: answer!, right }
  if (calibration === 'none' || !contentFree) return { example, truncated }
  const whole = calibration === 'sfc' ? (text: string) => text : inContext
  const free = answered(contentFree.prompt, contentFree.options.map(stripSpaces), whole)
  return { example: { ...example, calibration: free }, truncated }
}

/** Spaces alone: the line end before an answer stays. */
const stripSpaces = (text: string) => text.replace(/^ +| +$/g, '')

function labelledEnd(inputIds: readonly number[], count: number): Sequence {
  const first = Math.max(1, inputIds.length - count)
  return { inputIds, labels: inputIds.map((id, i) => (i < first ? IGNORED : id)) }
}
