// Forward-only evaluation of the weights as they are: mean loss over labelled tokens, and for
// classification the accuracy of mean-log-probability scoring of the label words (as MeZO scores).

import { collate } from './data/batches.ts'
import type { Batch, Example, Sequence } from './data/types.ts'
import type { Engine } from './engine.ts'
import { labelledRows } from './loss.ts'
import { forward } from './run.ts'

export interface Evaluation {
  /** Mean cross-entropy over labelled tokens, nats. */
  readonly loss: number
  readonly perplexity: number
  /** Labelled tokens. */
  readonly tokens: number
  /** Share of examples whose best option is the right one; classification only. */
  readonly accuracy?: number
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
  // For classification every option is scored; the right one's tokens make the loss.
  const sequences = examples.flatMap((example, i): Scored[] =>
    example.options
      ? example.options.map((sequence, o) => ({
          sequence,
          example: i,
          right: o === example.answer,
        }))
      : [{ sequence: example, example: i, right: true }],
  )
  const best = new Map<number, { mean: number; right: boolean }>()
  let [sum, tokens] = [0, 0]
  for (let i = 0; i < sequences.length; i += options.batchSize) {
    const part = sequences.slice(i, i + options.batchSize)
    const losses = await sequenceLosses(
      engine,
      collate(
        part.map((s) => s.sequence),
        options,
      ),
    )
    part.forEach(({ example, right }, b) => {
      const { loss, count } = losses[b]!
      const mean = loss / count
      if (right) [sum, tokens] = [sum + loss, tokens + count]
      if (!best.has(example) || mean < best.get(example)!.mean) best.set(example, { mean, right })
    })
    options.onProgress?.(Math.min(i + options.batchSize, sequences.length), sequences.length)
  }
  const loss = sum / tokens
  const result = { loss, perplexity: Math.exp(loss), tokens }
  if (!examples[0]?.options) return result
  const right = [...best.values()].filter((b) => b.right).length
  return { ...result, accuracy: right / examples.length }
}

/** Mean loss of batches that are made already; the public API's evaluate. */
export async function evaluateBatches(
  engine: Engine,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
): Promise<Evaluation> {
  let [sum, tokens] = [0, 0]
  for await (const batch of batches) {
    for (const { loss, count } of await sequenceLosses(engine, batch)) {
      sum += loss
      tokens += count
    }
  }
  return { loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens }
}

interface Scored {
  readonly sequence: Sequence
  readonly example: number
  readonly right: boolean
}

/** Sum of the losses and number of labelled tokens of each sequence of the batch. */
async function sequenceLosses(engine: Engine, batch: Batch) {
  const { rows, targets } = labelledRows(batch)
  const [losses] = await forward(engine, batch, null, { kind: 'loss', rows, targets })
  const tokens = batch.inputIds[0]!.length
  const sums = batch.inputIds.map(() => ({ loss: 0, count: 0 }))
  rows.forEach((row, i) => {
    const of = sums[Math.floor(row / tokens)]!
    of.loss += losses![i]!
    of.count++
  })
  return sums
}
