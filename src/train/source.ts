// What a run learns from: the micro-batches of each step, and the figures of evaluations. Made here of
// lists of examples; prepared text has its own (pretrain.ts). Everything is a pure function of the step,
// so that a run can be resumed.

import type { Config } from '../config/options.ts'
import { itemsAt } from '../data/order.ts'
import type { Batch, Example } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import type { Evaluation, OnProgress } from './evaluate.ts'

/** Figures of the weights as they are. */
export type Evaluate = (engine: Engine, onProgress: OnProgress) => Promise<Evaluation>

export interface DataSource {
  /** Of the training data: a run resumes on no other. */
  readonly sha256: string
  /** A fraction, where batches straddle epochs. */
  readonly stepsPerEpoch: number
  /** Sequences and tokens of the largest batch of training and evaluation; null: not known beforehand. */
  readonly largest: { readonly batch: number; readonly tokens: number } | null
  /** The micro-batches of a 0-based step. */
  batchesOf(step: number): Promise<readonly Batch[]>
  /** Of held-out data; null: there is none. */
  readonly evaluate: Evaluate | null
  /** The line of such an evaluation, where it is not evaluationLine's. */
  readonly line?: (step: number, evaluation: Evaluation) => string
  /** Of examples that are scored once, when training is over; null: there are none. */
  readonly test: { readonly name: string; readonly evaluate: Evaluate } | null
}

/** The micro-batches of a step from a data set of any kind. */
export async function microBatches<Item>(
  dataset: readonly Item[],
  step: number,
  { batchSize, accumulate, seed }: Pick<Config, 'batchSize' | 'accumulate' | 'seed'>,
  collate: (items: readonly Item[]) => Batch | Promise<Batch>,
): Promise<Batch[]> {
  const batches: Batch[] = []
  for (let i = 0; i < accumulate; i++) {
    batches.push(await collate(itemsAt(dataset, step * accumulate + i, batchSize, seed)))
  }
  return batches
}

/** Steps in which every one of `examples` is seen once. */
export const stepsPerEpoch = (
  examples: number,
  { batchSize, accumulate }: Pick<Config, 'batchSize' | 'accumulate'>,
): number => examples / (batchSize * accumulate)

/** Sequences and tokens of the largest batch that training on, or evaluation of, the examples makes. */
export function largestBatch(
  config: Pick<Config, 'batchSize' | 'maxNewTokens'>,
  train: readonly Example[],
  others: readonly Example[],
  options: boolean,
): { batch: number; tokens: number } {
  const longest = (e: Example) => {
    const rows = [e, ...(e.options ?? []), ...(e.calibration ?? [])]
    const generated = e.generation ? e.generation.prompt.length + config.maxNewTokens : 0
    return rows.reduce((most, { inputIds }) => Math.max(most, inputIds.length), generated)
  }
  const most = (list: readonly Example[], of: (e: Example) => number) =>
    list.reduce((largest, example) => Math.max(largest, of(example)), 0)
  const each = options
    ? Math.max(
        1,
        most(train, (e) => e.options?.length ?? 1),
      )
    : 1
  return {
    batch: config.batchSize * each,
    tokens: Math.max(most(train, longest), most(others, longest)),
  }
}
