// Forward-only evaluation of the weights as they are: mean loss over labelled tokens, and where
// examples have options the accuracy of scoring these as MeZO does, by the mean log-probability of
// their answer tokens, or calibrated by the sum less that after a prompt without content. Weights are
// uploaded once per sweep of as many batches as fit (src/engine/sweep.ts); the figures do not depend on it.

import { collate } from '../data/batches.ts'
import type { Batch, Example, Sequence } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { best, labelledRows, logSoftmax, sequenceLosses, type Total } from './loss.ts'
import { inSweeps } from '../engine/sweep.ts'

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

export interface EvaluateOptions {
  /** Sequences per forward pass. */
  readonly batchSize: number
  readonly padId: number
  readonly padTo: 'left' | 'right'
  readonly onProgress?: (done: number, total: number) => void
}

/** Evaluates examples in their given order. */
export async function evaluateExamples(
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

/** Mean loss of batches that are made already; the public API's evaluate. */
export async function evaluateBatches(
  engine: Engine,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  onProgress?: (done: number) => void,
): Promise<Evaluation> {
  const all: Batch[] = []
  for await (const batch of batches) all.push(batch)
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
