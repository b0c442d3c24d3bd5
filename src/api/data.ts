// A trainer's data sets, of examples or of items of its user's own kind: how they become batches, and
// what is said of the weights as they are over one of them.

import type { Config } from '../config/options.ts'
import { collateExamples } from '../data/batches.ts'
import type { DataCollator } from '../train/data-loader.ts'
import {
  IGNORED,
  type Batch,
  type BatchInput,
  type Example,
  type Tokenizer,
} from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { scoreExamples } from '../train/evaluate-answers.ts'
import { evaluateBatches, evaluateExamples, type Evaluation } from '../train/evaluate.ts'
import { microBatches, type Feed, type OnProgress } from '../train/feed.ts'
import type { ResolvedGoal } from './goal.ts'
import { labelLogits, type LabelLogits } from '../train/logits.ts'

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

export interface Datasets<Item> {
  collate(items: readonly Item[]): Promise<Batch>
  /** A run on `dataset`, evaluated on `held`; null: not at all. */
  feed(engine: Engine, dataset: readonly Item[], held: readonly Item[] | null): Feed
  evaluate(engine: Engine, held: readonly Item[], onProgress: OnProgress): Promise<Evaluation>
  predict(engine: Engine, items: readonly Item[]): Promise<EvalPrediction<Item>>
}

export function createDatasets<Item>(options: DatasetOptions<Item>): Datasets<Item> {
  const { config, goal, padId, check, dataCollator, computeMetrics } = options
  const padding = { padId, padTo: config.padding }
  const batchSize = config.evalBatchSize ?? config.batchSize

  const collate = async (items: readonly Item[], rows = goal.options, needsLabels = true) => {
    const batch = dataCollator
      ? await dataCollator(items)
      : collateExamples(items as readonly Example[], padding, { options: rows })
    return check(batch, needsLabels)
  }
  /** Batches of an evaluation: in order, the last one as short as it comes. */
  async function* batchesOf(items: readonly Item[], onProgress: OnProgress) {
    for (let i = 0; i < items.length; i += batchSize) {
      yield await collate(items.slice(i, i + batchSize), false)
      onProgress(Math.min(i + batchSize, items.length), items.length)
    }
  }
  async function figures(engine: Engine, held: readonly Item[], onProgress: OnProgress) {
    if (dataCollator) return evaluateBatches(engine, batchesOf(held, onProgress))
    const examples = held as readonly Example[]
    const common = { batchSize, ...padding, onProgress }
    if (!examples[0]?.generation) return evaluateExamples(engine, examples, common)
    const { maxNewTokens } = config
    const tokenizer = await options.tokenizer()
    return scoreExamples(engine, examples, { ...common, tokenizer, maxNewTokens })
  }
  async function predict(engine: Engine, items: readonly Item[]) {
    const reduce = options.preprocessLogitsForMetrics ?? ((logits) => logits)
    const [predictions, labelIds]: [unknown[], number[][]] = [[], []]
    for await (const batch of batchesOf(items, () => {})) {
      const [logits] = await labelLogits(engine, batch, null)
      batch.labels.forEach((row, b) => {
        const labels = row.slice(1).filter((label) => label !== IGNORED)
        predictions.push(reduce(logits![b]!, labels))
        labelIds.push(labels)
      })
    }
    return { predictions, labelIds, inputs: items }
  }
  async function evaluate(engine: Engine, held: readonly Item[], onProgress: OnProgress) {
    const result = await figures(engine, held, onProgress)
    if (!computeMetrics) return result
    return { ...result, ...checkedFigures(await computeMetrics(await predict(engine, held))) }
  }
  return {
    collate: (items) => collate(items, goal.options, goal.needsLabels),
    feed(engine, dataset, held) {
      const without = (dataset as readonly Example[]).findIndex((example) => !example.options)
      if (goal.options && !dataCollator && without >= 0) {
        throw new UserError(
          `the objective compares options, but trainDataset[${without}] has none: give examples with options`,
        )
      }
      return {
        batchesOf: (step) => microBatches(dataset, step, config, (items) => this.collate(items)),
        stepsPerEpoch: dataset.length / (config.batchSize * config.accumulate),
        evaluate: held && ((onProgress) => evaluate(engine, held, onProgress)),
      }
    },
    evaluate,
    predict,
  }
}

/** Figures under their own names: whoever shows them puts eval_ in front. */
function checkedFigures(figures: Readonly<Record<string, unknown>>): Record<string, number> {
  const entries = Object.entries(figures ?? {}).map(([spelled, value]) => {
    const name = spelled.replace(/^eval_/, '')
    if (name === 'step' || name === 'split') {
      throw new UserError(`computeMetrics: "${name}" is taken in evals.jsonl; take another name`) // prettier-ignore
    }
    if (typeof value === 'number') return [name, value] as const
    throw new UserError(`computeMetrics: ${spelled}: expected a number, found ${String(value)}`)
  })
  return Object.fromEntries(entries)
}
