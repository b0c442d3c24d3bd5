// What a run is fed with: the micro-batches of each step, and the figures of an evaluation. Made here
// from examples; src/api/trainer.ts makes one from data sets of its user's own kind.

import type { Config } from '../config/options.ts'
import { collateExamples } from '../data/batches.ts'
import type { Batch, Example, Tokenizer } from '../data/types.ts'
import { itemsAt } from './data-loader.ts'
import type { Engine } from '../engine/engine.ts'
import { evaluateExamples, type Evaluation } from './evaluate.ts'

export type OnProgress = (done: number, total: number) => void

export interface Feed {
  /** The micro-batches of a 0-based step: a pure function of it, so that a run can be resumed. */
  readonly batchesOf: (step: number) => Promise<readonly Batch[]>
  /** A fraction, where batches straddle epochs. */
  readonly stepsPerEpoch: number
  /** Figures of the weights as they are; null: there is nothing to evaluate on. */
  readonly evaluate: ((onProgress: OnProgress) => Promise<Evaluation>) | null
  /** The line of an evaluation, where it is not evaluationLine's. */
  readonly line?: (step: number, evaluation: Evaluation) => string
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

export interface ExamplesFeed {
  readonly engine: Engine
  readonly config: Config
  readonly tokenizer: Pick<Tokenizer, 'padId'>
  readonly train: readonly Example[]
  /** Whether every option of an example is a row of the batch. */
  readonly options: boolean
  /** Held-out examples; none: no evaluation. */
  readonly held: readonly Example[]
}

/** Examples, padded as --padding says. */
export function examplesFeed(input: ExamplesFeed): Feed {
  const { engine, config, train, held, options } = input
  const padding = { padId: input.tokenizer.padId, padTo: config.padding }
  const evaluate = (onProgress: OnProgress) => {
    const batchSize = config.evalBatchSize ?? config.batchSize
    return evaluateExamples(engine, held, { batchSize, ...padding, onProgress })
  }
  return {
    batchesOf: (step) =>
      microBatches(train, step, config, (items) => collateExamples(items, padding, { options })),
    stepsPerEpoch: train.length / (config.batchSize * config.accumulate),
    evaluate: held.length > 0 ? evaluate : null,
  }
}
