// A program's data sets as the source of a run: batches by its collator or by padding of examples, the
// figures of evaluations, and what computeMetrics is given.

import type { Config } from '../config/options.ts'
import { collateExamples } from '../data/batches.ts'
import { byCount } from '../data/order.ts'
import { packBatch } from '../data/packing.ts'
import {
  IGNORED,
  type Batch,
  type BatchInput,
  type Example,
  type Tokenizer,
} from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import {
  evaluateBatches,
  evaluateExamples,
  type Evaluation,
  type OnProgress,
} from '../train/evaluate.ts'
import { labelLogits, type LabelLogits } from '../train/logits.ts'
import { largestOf, microBatches, sized, stepsPerEpoch, type DataSource } from '../train/source.ts'
import { examplesHash } from '../train/task.ts'
import { UserError } from '../util/errors.ts'
import type { DataCollator } from './data-loader.ts'
import type { ResolvedGoal } from './objective.ts'

/** What is predicted for a data set, sequence by sequence, at labelled tokens alone. */
export interface EvalPrediction<Item = Example> {
  /** Logits [V] for each labelled token, or what preprocessLogitsForMetrics made of them. */
  readonly predictions: readonly unknown[]
  /** The labels that are predicted there. */
  readonly labelIds: readonly (readonly number[])[]
  /** The items of the data set, in the same order where each is one sequence. */
  readonly inputs: readonly Item[]
}

/** Figures by name, which become eval_NAME. */
export type ComputeMetrics<Item = Example> = (
  prediction: EvalPrediction<Item>,
) => Readonly<Record<string, number>> | Promise<Readonly<Record<string, number>>>

/** Of one sequence: logits[i] is [V] and predicts labels[i]. */
export type PreprocessLogits = (logits: LabelLogits[number], labels: readonly number[]) => unknown

export interface DatasetOptions<Item> {
  readonly config: Config
  readonly goal: ResolvedGoal
  readonly padId: number
  readonly check: (batch: BatchInput, needsLabels: boolean) => Batch
  readonly tokenizer: () => Promise<Tokenizer>
  readonly dataCollator?: DataCollator<Item> | undefined
  readonly computeMetrics?: ComputeMetrics<Item> | undefined
  readonly preprocessLogitsForMetrics?: PreprocessLogits | undefined
}

/** The batch of some items, for training. */
export const collateItems = <Item>(options: DatasetOptions<Item>, items: readonly Item[]) =>
  collate(options, items, options.goal.options, options.goal.needsLabels)

async function collate<Item>(
  { padId, check, dataCollator }: DatasetOptions<Item>,
  items: readonly Item[],
  options: boolean,
  needsLabels: boolean,
): Promise<Batch> {
  const padding = { padId, padTo: 'right' } as const
  const batch = dataCollator
    ? await dataCollator(items)
    : collateExamples(items as readonly Example[], padding, { options })
  return check(batch, needsLabels)
}

/** A run on `dataset`, evaluated on `held`; null: not at all. */
export function datasetSource<Item>(
  options: DatasetOptions<Item>,
  dataset: readonly Item[],
  held: readonly Item[] | null,
): DataSource {
  const { config, goal, dataCollator } = options
  if (!dataCollator) checkExamples(dataset, goal.options, 'trainDataset')
  if (!dataCollator && held) checkExamples(held, false, 'evalDataset')
  const examples = dataset as readonly Example[]
  const order = byCount(dataset.length, config.batchSize, config.seed)
  return {
    sha256: examplesHash(examples),
    stepsPerEpoch: stepsPerEpoch(dataset.length, config),
    largest: dataCollator
      ? null
      : (steps) => {
          const texts = sized(examples, (e) => (goal.options ? e.options! : [e]))
          return largestOf(texts, order, steps, config)
        },
    batchesOf: (step) =>
      microBatches(dataset, order, step, config, async (items) => {
        return packBatch(await collateItems(options, items))
      }),
    evaluate: held && ((engine, onProgress) => evaluateItems(options, engine, held, onProgress)),
    test: null,
  }
}

/** @throws UserError for items that are no examples, which only a collator could make batches of */
function checkExamples(items: readonly unknown[], options: boolean, name: string): void {
  const isIds = (value: unknown) => Array.isArray(value) && value.every(Number.isInteger)
  items.forEach((item, i) => {
    const { inputIds, labels, options: of } = (item ?? {}) as Partial<Example>
    if (!isIds(inputIds) || !isIds(labels)) {
      throw new UserError(
        `${name}[${i}]: expected an example { inputIds, labels } of token ids, found ${describeItem(item)}; give examples (loadExamples, loadTask) or a dataCollator`,
      )
    }
    if (options && !of) {
      throw new UserError(
        `the objective compares options, but ${name}[${i}] has none: give examples with options`,
      )
    }
  })
}

const describeItem = (item: unknown) =>
  typeof item === 'object' && item !== null
    ? `an object with ${Object.keys(item).slice(0, 8).join(', ') || 'nothing in it'}`
    : String(item).slice(0, 40)

/** Batches of an evaluation: in order, the last one as short as it comes. */
async function* batchesOf<Item>(
  options: DatasetOptions<Item>,
  items: readonly Item[],
  onProgress: OnProgress,
) {
  const batchSize = options.config.evalBatchSize ?? options.config.batchSize
  for (let i = 0; i < items.length; i += batchSize) {
    yield await collate(options, items.slice(i, i + batchSize), false, true)
    onProgress(Math.min(i + batchSize, items.length), items.length)
  }
}

/** Figures of a data set, those of computeMetrics among them. */
export async function evaluateItems<Item>(
  options: DatasetOptions<Item>,
  engine: Engine,
  items: readonly Item[],
  onProgress: OnProgress,
): Promise<Evaluation> {
  const { config, dataCollator, computeMetrics, tokenizer } = options
  if (!dataCollator) checkExamples(items, false, 'evalDataset')
  const result = dataCollator
    ? await evaluateBatches(engine, batchesOf(options, items, onProgress))
    : await evaluateExamples(engine, items as readonly Example[], {
        answers: { tokenizer, maxNewTokens: config.maxNewTokens },
        onProgress,
      })
  if (!computeMetrics) return result
  const figures = await computeMetrics(await predictItems(options, engine, items))
  return { ...result, ...checkedFigures(figures) }
}

/** What computeMetrics is given. */
export async function predictItems<Item>(
  options: DatasetOptions<Item>,
  engine: Engine,
  items: readonly Item[],
): Promise<EvalPrediction<Item>> {
  const reduce = options.preprocessLogitsForMetrics ?? ((logits) => logits)
  const [predictions, labelIds]: [unknown[], number[][]] = [[], []]
  for await (const batch of batchesOf(options, items, () => {})) {
    const [logits] = await labelLogits(engine, packBatch(batch), null)
    batch.labels.forEach((row, b) => {
      const labels = row.slice(1).filter((label) => label !== IGNORED)
      predictions.push(reduce(logits![b]!, labels))
      labelIds.push(labels)
    })
  }
  return { predictions, labelIds, inputs: items }
}

/** Figures under their own names: whoever shows them puts eval_ in front. */
function checkedFigures(figures: Readonly<Record<string, unknown>>): Record<string, number> {
  const entries = Object.entries(figures ?? {}).map(([spelled, value]) => {
    const name = spelled.replace(/^eval_/, '')
    if (name === 'step' || name === 'split') {
      throw new UserError(`computeMetrics: "${name}" is taken in evals.jsonl; take another name`)
    }
    if (typeof value === 'number') return [name, value] as const
    throw new UserError(`computeMetrics: ${spelled}: expected a number, found ${String(value)}`)
  })
  return Object.fromEntries(entries)
}
