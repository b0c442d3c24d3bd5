// Forward-only evaluation of the weights as they are: mean loss over labelled tokens, and where
// examples have options the accuracy of scoring these as MeZO does, by the mean log-probability of
// their answer tokens, or calibrated by the sum less that after a prompt without content.

import { collate } from './data/batches.ts'
import type { Batch, Example, Sequence } from './data/types.ts'
import type { Engine } from './engine.ts'
import { best, labelledRows, logSoftmax, sequenceLosses, type Total } from './loss.ts'
import { forward } from './run.ts'

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
  const totals: Total[] = []
  for (let i = 0; i < sequences.length; i += options.batchSize) {
    const part = sequences.slice(i, i + options.batchSize)
    totals.push(...(await batchTotals(engine, collate(part, options))))
    options.onProgress?.(totals.length, sequences.length)
  }
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
): Promise<Evaluation> {
  const totals: Total[] = []
  for await (const batch of batches) totals.push(...(await batchTotals(engine, batch)))
  return summary(totals)
}

function summary(totals: readonly Total[]): Evaluation {
  let [sum, tokens] = [0, 0]
  for (const total of totals) [sum, tokens] = [sum + total.sum, tokens + total.count]
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens }
}

/** Loss and labelled tokens of each sequence of the batch. */
async function batchTotals(engine: Engine, batch: Batch): Promise<Total[]> {
  const { rows, targets } = labelledRows(batch)
  const [losses] = await forward(engine, batch, null, { kind: 'loss', rows, targets })
  return sequenceLosses(losses!, batch)
}
