// Forward-only evaluation of the weights as they are: mean loss over labelled tokens; where examples have
// options the accuracy of scoring these as MeZO does, by the mean log-probability of their answer tokens,
// or calibrated by the sum less that after a prompt without content; of generation tasks F1 and exact
// match of greedy answers. Weights are uploaded once per sweep of as many batches as fit
// (src/engine/sweep.ts); the figures do not depend on it.

import { collate } from '../data/batches.ts'
import type { Batch, Example, Sequence, Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { notFinite } from '../engine/finite.ts'
import { best, labelledRows, logSoftmax, sequenceLosses, type Total } from './loss.ts'
import { inSweeps } from '../engine/sweep.ts'
import { f1Score, exactMatch } from '../data/tasks/metrics.ts'
import { answersInBatches } from '../generate/answers.ts'
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
  /** Sequences per forward pass. */
  readonly batchSize: number
  readonly padId: number
  readonly padTo: 'left' | 'right'
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

/** Losses, and where there are options their scores. */
async function scoreTexts(
  engine: Engine,
  examples: readonly Example[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  // Every option is scored; calibration prompts, often the same for all examples, once each.
  const sequences: Sequence[] = []
  const known = new Map<string, number>()
  const place = (sequence: Sequence) => sequences.push(sequence) - 1
  const placeOnce = (sequence: Sequence) => {
    const key = JSON.stringify(sequence)
    if (!known.has(key)) known.set(key, place(sequence))
    return known.get(key)!
  }
  const placed = examples.map((example) => ({
    options: (example.options ?? [example]).map(place),
    calibration: example.calibration?.map(placeOnce),
  }))
  const totals = await sequenceTotals(engine, sequences, options)
  const right = placed.map((of, i) => totals[of.options[examples[i]!.answer ?? 0]!]!)
  const result = summary(right)
  if (!examples[0]?.options) return result

  let [correct, optionLoss] = [0, 0]
  placed.forEach((of, i) => {
    const { answer = 0, right = [answer] } = examples[i]!
    const means = of.options.map((o) => -totals[o]!.sum / totals[o]!.count)
    const scores = of.calibration?.map((c, o) => totals[c]!.sum - totals[of.options[o]!]!.sum)
    correct += Number(right.includes(best(scores ?? means)))
    optionLoss -= logSoftmax(means, answer)
  })
  const count = examples.length
  return { ...result, accuracy: correct / count, option_loss: optionLoss / count }
}

/** F1 and exact match of greedily generated answers. */
async function scoreAnswers(
  engine: Engine,
  examples: readonly Example[],
  options: EvaluateOptions & Required<Pick<EvaluateOptions, 'answers'>>,
): Promise<Pick<Evaluation, 'f1' | 'exact_match'>> {
  const { batchSize, onProgress } = options
  const { maxNewTokens } = options.answers
  const tokenizer = await options.answers.tokenizer()
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
  return { f1: f1 / asked.length, exact_match: exact / asked.length }
}

/** Mean loss of batches that are made already; the public API's evaluate. */
export async function evaluateBatches(
  engine: Engine,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  onProgress?: (done: number) => void,
): Promise<Evaluation> {
  const all: Batch[] = []
  for await (const batch of batches) all.push(batch)
  if (all.length === 0) throw new UserError('evaluate: expected one batch or more, found none')
  const most = (of: (batch: Batch) => number) => all.reduce((max, b) => Math.max(max, of(b)), 0)
  const losses = await inSweeps(
    engine,
    {
      count: all.length,
      batch: most((b) => b.inputIds.length),
      tokens: most((b) => b.inputIds[0]!.length),
      at: (i) => passOf(all[i]!),
    },
    onProgress,
  )
  return summary(losses.flatMap((ofBatch, i) => sequenceLosses(ofBatch, all[i]!)))
}

/** Loss and labelled tokens of each sequence, evaluated in batches of `batchSize`. */
async function sequenceTotals(
  engine: Engine,
  sequences: readonly Sequence[],
  options: EvaluateOptions,
): Promise<Total[]> {
  const { batchSize, onProgress } = options
  const total = sequences.length
  const batchAt = (i: number) => {
    return collate(sequences.slice(i * batchSize, (i + 1) * batchSize), options)
  }
  const losses = await inSweeps(
    engine,
    {
      count: Math.ceil(total / batchSize),
      batch: Math.min(batchSize, total),
      tokens: sequences.reduce((max, s) => Math.max(max, s.inputIds.length), 0),
      at: (i) => passOf(batchAt(i)),
    },
    (done) => onProgress?.(Math.min(Math.floor(done * batchSize), total), total),
  )
  return losses.flatMap((ofBatch, i) => sequenceLosses(ofBatch, batchAt(i)))
}

function summary(totals: readonly Total[]): Evaluation {
  let [sum, tokens] = [0, 0]
  for (const total of totals) [sum, tokens] = [sum + total.sum, tokens + total.count]
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens }
}

const passOf = (input: Batch) => ({
  input,
  wanted: { kind: 'loss' as const, ...labelledRows(input) },
})

/** One aligned line for an evaluation. */
export function evaluationLine(label: string, e: Evaluation): string {
  const { loss, perplexity, tokens, ...scores } = e
  const text = Object.entries(scores)
    .filter(([name, score]) => score !== undefined && name !== 'option_loss')
    .map(([name, score]) => `  ${name.replaceAll('_', ' ')} ${Number(score).toFixed(4)}`)
    .join('')
  return `${label}  loss ${loss.toFixed(4)}  perplexity ${perplexity.toFixed(2)}${text}  tokens ${tokens}`
}
