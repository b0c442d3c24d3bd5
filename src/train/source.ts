// What a run learns from: the micro-batches of each step, and the figures of evaluations. Made here of
// lists of examples; prepared text has its own (pretrain.ts). Everything is a pure function of the step,
// so that a run can be resumed.

import type { Config } from '../config/options.ts'
import type { Order } from '../data/order.ts'
import { packTexts, type PackedBatch } from '../data/packing.ts'
import type { Sequence } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { largest, together, type BatchShape } from '../engine/shape.ts'
import { shapeOf } from '../engine/split.ts'
import type { Evaluation, OnProgress } from './evaluate.ts'

/** Figures of the weights as they are. */
export type Evaluate = (engine: Engine, onProgress: OnProgress) => Promise<Evaluation>

/** What a run's memory is planned for. */
export interface Largest {
  /** That every batch fits in, of one probe. */
  readonly shape: BatchShape
  /** The texts of the batch with most rows. */
  readonly texts: readonly Sequence[]
}

export interface DataSource {
  /** Of the training data: a run resumes on no other. */
  readonly sha256: string
  /** A fraction, where batches straddle epochs. */
  readonly stepsPerEpoch: number
  /** The largest batch of so many steps; null: not known beforehand. */
  readonly largest: ((steps: number) => Largest) | null
  /** The micro-batches of a 0-based step. */
  batchesOf(step: number): Promise<readonly PackedBatch[]>
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
  order: Order,
  step: number,
  { accumulate }: Pick<Config, 'accumulate'>,
  pack: (items: readonly Item[]) => PackedBatch | Promise<PackedBatch>,
): Promise<PackedBatch[]> {
  const batches: PackedBatch[] = []
  for (let i = 0; i < accumulate; i++) {
    batches.push(await pack(order(step * accumulate + i).map((index) => dataset[index]!)))
  }
  return batches
}

/** Steps in which every one of `examples` is seen once. */
export const stepsPerEpoch = (
  examples: number,
  { batchSize, accumulate }: Pick<Config, 'batchSize' | 'accumulate'>,
): number => examples / (batchSize * accumulate)

/** Examples, each of which is one or several texts, and what a batch of each alone takes. */
export interface Sized<Item> {
  readonly items: readonly Item[]
  readonly textsOf: (item: Item) => readonly Sequence[]
  readonly shapes: readonly BatchShape[]
}

export const sized = <Item>(
  items: readonly Item[],
  textsOf: (item: Item) => readonly Sequence[],
): Sized<Item> => ({
  items,
  textsOf,
  shapes: items.map((item) => shapeOf(packTexts(textsOf(item)), 1)),
})

/** The largest of the batches of so many steps. */
export function largestOf<Item>(
  { items, textsOf, shapes }: Sized<Item>,
  order: Order,
  steps: number,
  { accumulate }: Pick<Config, 'accumulate'>,
): Largest {
  let shape: BatchShape | undefined
  let most = { rows: -1, batch: 0 }
  for (let batch = 0; batch < Math.max(1, steps) * accumulate; batch++) {
    const own = together(order(batch).map((i) => shapes[i]!))
    shape = largest(shape ? [shape, own] : [own])
    if (own.rows > most.rows) most = { rows: own.rows, batch }
  }
  return { shape: shape!, texts: order(most.batch).flatMap((i) => textsOf(items[i]!)) }
}
