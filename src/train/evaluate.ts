// Forward-only evaluation of the weights as they are: mean loss over labelled tokens; where examples have
// options the accuracy of scoring these as MeZO does, by the mean log-probability of their answer tokens,
// or calibrated by the sum less that after a prompt without content; of generation tasks F1 and exact
// match of greedy answers. Texts go in as few passes over the weights as memory allows (src/engine/split.ts);
// the figures do not depend on it.

import { checkLabels, choicesOf, labelCount, packBatch } from '../data/packing.ts'
import { f1Score, exactMatch } from '../data/tasks/metrics.ts'
import type { Batch, Example, Sequence, Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { notFinite } from '../engine/finite.ts'
import { lossesOfTexts } from '../engine/forward.ts'
import { answersTo } from '../generate/answers.ts'
import { best, logSoftmax, textLosses, type Total } from './loss.ts'
import { UserError } from '../util/errors.ts'

export interface Evaluation {
  /** Mean cross-entropy over labelled tokens, nats. */
  readonly loss: number
  readonly perplexity: number
  /** Labelled tokens. */
  readonly tokens: number
  /** Share of examples whose best option is a right one; only where there are options. */
  readonly accuracy?: number
  /** Mean cross-entropy over options (optionCrossEntropy); only where there are options. */
  readonly option_loss?: number
  /** Scores of generated answers; only of generation tasks, and where they were generated. */
  readonly f1?: number
  readonly exact_match?: number
}

/** Called often with what is done and how much there is; what it throws ends the evaluation. */
export type OnProgress = (done: number, total: number) => void

interface EvaluateOptions {
  /** How examples of a generation task are answered; without it they have a loss and no score. */
  readonly answers?: {
    readonly tokenizer: () => Promise<Tokenizer>
    /** Tokens of an answer at most. */
    readonly maxNewTokens: number
  }
  readonly onProgress?: OnProgress
}

/** Everything that can be said of examples in their given order: loss, and accuracy or F1 and exact match. */
export async function evaluateExamples(
  engine: Engine,
  examples: readonly Example[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  const scored = await scoreTexts(engine, examples, options)
  const { answers } = options
  if (!examples[0]?.generation || !answers) return scored
  // What weights say that give no numbers means nothing.
  if (!Number.isFinite(scored.loss)) return { ...scored, f1: NaN, exact_match: NaN }
  return { ...scored, ...(await scoreAnswers(engine, examples, { ...options, answers })) }
}

/** @throws NotFiniteError if the evaluation's loss is no number */
export function checkedEvaluation(engine: Engine, evaluation: Evaluation): Evaluation {
  if (Number.isFinite(evaluation.loss)) return evaluation
  throw notFinite(engine, 'the logits')
}

/** Losses, and where there are options their scores: of all of them, calibrated where there is a text for it. */
async function scoreTexts(
  engine: Engine,
  examples: readonly Example[],
  { onProgress }: EvaluateOptions,
): Promise<Evaluation> {
  const all = choicesOf(examples.map((example) => ({ options: [example], ...example })))
  const options = examples.flatMap((example) => example.options ?? [example])
  const calibrations = examples.flatMap((example) => example.calibration ?? [])
  const totals = await totalsOf(engine, [...options, ...calibrations], onProgress)
  const right = summary(all.map(({ first }, i) => totals[first + (examples[i]!.answer ?? 0)]!))
  if (!examples[0]?.options) return right

  let [correct, optionLoss, next] = [0, 0, options.length]
  all.forEach(({ first, count, right }, i) => {
    const own = totals.slice(first, first + count)
    const means = own.map(({ sum, count }) => -sum / count)
    const before = totals.slice(next, (next += examples[i]!.calibration?.length ?? 0))
    const scores = before.map(({ sum }, o) => sum - own[o]!.sum)
    correct += Number(right.includes(best(before.length > 0 ? scores : means)))
    optionLoss -= logSoftmax(means, right[0]!)
  })
  const count = examples.length
  return { ...right, accuracy: correct / count, option_loss: optionLoss / count }
}

/** F1 and exact match of greedily generated answers. */
async function scoreAnswers(
  engine: Engine,
  examples: readonly Example[],
  options: EvaluateOptions & Required<Pick<EvaluateOptions, 'answers'>>,
): Promise<Pick<Evaluation, 'f1' | 'exact_match'>> {
  const { onProgress } = options
  const { maxNewTokens } = options.answers
  const tokenizer = await options.answers.tokenizer()
  const asked = examples.map((example) => example.generation!)
  const prompts = asked.map(({ prompt }) => prompt)
  const made = await answersTo(engine, prompts, tokenizer, {
    maxNewTokens,
    onProgress: (done) => onProgress?.(Math.floor(done), asked.length),
  })
  let [f1, exact] = [0, 0]
  made.forEach((answer, i) => {
    f1 += f1Score(answer, asked[i]!.golds)
    exact += Number(exactMatch(answer, asked[i]!.golds))
  })
  return { f1: f1 / asked.length, exact_match: exact / asked.length }
}

/** Mean loss of texts; `onProgress` is called with how many are done. */
export async function evaluateTexts(
  engine: Engine,
  texts: readonly Sequence[],
  onProgress?: (done: number) => void,
): Promise<Evaluation> {
  return summary(await totalsOf(engine, texts, onProgress))
}

/** Mean loss of batches that are made already; the public API's evaluate. */
export async function evaluateBatches(
  engine: Engine,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
): Promise<Evaluation> {
  const all: Batch[] = []
  for await (const batch of batches) all.push(batch)
  if (all.length === 0) throw new UserError('evaluate: expected one batch or more, found none')
  const packed = all.map((batch) => packBatch(batch))
  packed.forEach(checkLabels)
  return evaluateTexts(
    engine,
    packed.flatMap((batch) => batch.texts),
  )
}

/** Loss and labelled tokens of each text. */
async function totalsOf(
  engine: Engine,
  texts: readonly Sequence[],
  onProgress?: OnProgress,
): Promise<Total[]> {
  const counts = texts.map(labelCount)
  const tell = (done: number) => onProgress?.(Math.floor(done), texts.length)
  return textLosses(await lossesOfTexts(engine, texts, tell), { counts })
}

function summary(totals: readonly Total[]): Evaluation {
  let [sum, tokens] = [0, 0]
  for (const total of totals) [sum, tokens] = [sum + total.sum, tokens + total.count]
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens }
}

/** One aligned line for an evaluation. */
export function evaluationLine(label: string, e: Evaluation): string {
  const { loss, perplexity, tokens, ...scores } = e
  const text = Object.entries(scores)
    .filter(([name, score]) => score !== undefined && name !== 'option_loss')
    .map(([name, score]) => `  ${name.replaceAll('_', ' ')} ${Number(score).toFixed(4)}`)
    .join('')
  return `${label}  loss ${loss.toFixed(4)}  perplexity ${perplexity.toFixed(2)}${text}  tokens ${tokens}`
}
