// Batches in the order that a run sees them: a pure function of seed and position, for the trainer
// and for loops of one's own.

import { collateExamples } from '../data/batches.ts'
import { itemsAt } from '../data/order.ts'
import type { Batch, BatchInput, Example } from '../data/types.ts'
import { UserError } from '../util/errors.ts'

/** Items to one batch; Hugging Face's data_collator. */
export type DataCollator<Item> = (items: readonly Item[]) => BatchInput | Promise<BatchInput>

export interface LoaderOptions<Item> {
  readonly batchSize: number
  /** The run's seed: that of zoInit, for the order of a trainer's run. */
  readonly seed?: number
  /** Batches to give; without it there is no end. */
  readonly batches?: number
  /** The first batch, 0-based: where an earlier loop ended. */
  readonly start?: number
  /** Every option of an example is a row, for objectives that compare them. */
  readonly options?: boolean
  /** Pads examples on the right by default. */
  readonly dataCollator?: DataCollator<Item>
}

/**
 * Shuffled batches of a dataset, epoch after epoch: batch i is what step i of a trainer's run sees.
 * With gradientAccumulationSteps a step sees as many consecutive batches.
 * @throws UserError for an empty dataset or a batch size that is none
 */
export function dataLoader<Item = Example>(
  dataset: readonly Item[],
  options: LoaderOptions<Item>,
): AsyncGenerator<BatchInput, void, void> {
  const { batchSize, seed = 0, batches = Infinity, start = 0, dataCollator } = options
  if (dataset.length === 0) throw new UserError('the dataset is empty; expected examples')
  if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
    throw new UserError(`batchSize: expected a whole number of at least 1, found ${batchSize}`)
  }
  const collator =
    dataCollator ?? ((items) => padRight(items as readonly Example[], options.options))
  return (async function* () {
    for (let i = 0; i < batches; i++) {
      yield await collator(itemsAt(dataset, start + i, batchSize, seed))
    }
  })()
}

/** Any token will do as padding: it is masked, and nothing depends on it. */
const padRight = (examples: readonly Example[], options = false): Batch =>
  collateExamples(examples, { padId: 0, padTo: 'right' }, { options })
