// ZOTrainer: Hugging Face's Trainer on the house's one run driver (src/train/run.ts). Runs are those of
// `zo2 finetune`, and those of a loop of one's own over zoInit and dataLoader: the same steps, the same
// journal, the same weights.

import { dirname, join, resolve } from 'node:path'
import type { Config } from '../config/options.ts'
import type { BatchInput, Example, Tokenizer } from '../data/types.ts'
import { writeTrained } from '../export/result.ts'
import { discard } from '../run/folder.ts'
import {
  hooksCallback,
  notifier,
  type Notify,
  type StepHooks,
  type TrainerCallback,
  type TrainerState,
} from '../train/callbacks.ts'
import { claimRun, runTraining, type RunSummary } from '../train/run.ts'
import { createReporter, silent } from '../util/console.ts'
import { DTYPES } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import {
  collateItems,
  datasetSource,
  evaluateItems,
  predictItems,
  type ComputeMetrics,
  type DatasetOptions,
  type EvalPrediction,
  type PreprocessLogits,
} from './data.ts'
import { dataLoader, type DataCollator } from './data-loader.ts'
import { dtypeOf, folderOf, functionOf, listOf, objectOf } from './guards.ts'
import { handleOf, type Handle, type ZoModel } from './model.ts'
import { goalOf, type Goal } from './objective.ts'
import {
  configOfArguments,
  evaluates,
  TrainingArguments,
  type TrainingArgumentsSpelled,
} from './training-arguments.ts'

export interface ZOTrainerOptions<Item = Example> extends StepHooks, Goal {
  readonly model: ZoModel
  readonly args: TrainingArguments | TrainingArgumentsSpelled
  /** Examples (loadExamples, loadTask), or anything that dataCollator makes batches of. */
  readonly trainDataset?: readonly Item[]
  readonly evalDataset?: readonly Item[]
  /** Items to one batch; pads examples by default. */
  readonly dataCollator?: DataCollator<Item>
  /** Further figures of an evaluation, from the logits at labelled tokens: a second forward pass. */
  readonly computeMetrics?: ComputeMetrics<Item>
  /** Makes less of one sequence's logits before they are kept for computeMetrics. */
  readonly preprocessLogitsForMetrics?: PreprocessLogits
  readonly callbacks?: readonly TrainerCallback<TrainingArguments>[]
  /** By default the one in the model's folder, read where text is needed. */
  readonly tokenizer?: Tokenizer
  /** Ends the run after the step under way; it can be resumed. */
  readonly signal?: AbortSignal
}

export interface TrainOutput {
  /** Steps in the journal. */
  readonly globalStep: number
  /** Mean over all steps of the run that were not skipped. */
  readonly trainingLoss: number
  /** By `signal`. */
  readonly stopped: boolean
  /** By early stopping or a callback. */
  readonly stoppedEarly: boolean
  /** The step of the best evaluation, and its figure; null without evaluations. */
  readonly bestStep: number | null
  readonly bestMetric: number | null
  /** The steps that the model's weights have seen: the best one with loadBestModelAtEnd. */
  readonly modelStep: number
}

const NEVER = new AbortController().signal

/**
 * Trains a model with zeroth-order steps.
 * @throws UserError for arguments that are wrong, or mean nothing without a backward pass
 */
export class ZOTrainer<Item = Example> {
  readonly args: TrainingArguments
  /** Of the run that `train` made last; null before. */
  state: TrainerState | null = null
  private readonly options: ZOTrainerOptions<Item>
  private readonly callbacks: TrainerCallback<TrainingArguments>[]

  constructor(options: ZOTrainerOptions<Item>) {
    handleOf(objectOf(options, 'ZOTrainer').model, 'ZOTrainer')
    const { dataCollator, computeMetrics, preprocessLogitsForMetrics, callbacks = [] } = options
    listOf(options.trainDataset ?? [], 'trainDataset')
    listOf(options.evalDataset ?? [], 'evalDataset')
    functionOf(dataCollator, 'dataCollator')
    functionOf(computeMetrics, 'computeMetrics')
    functionOf(preprocessLogitsForMetrics, 'preprocessLogitsForMetrics')
    listOf(callbacks, 'callbacks').forEach((one, i) => objectOf(one, `callbacks[${i}]`))
    this.args = new TrainingArguments(options.args)
    this.options = options
    this.callbacks = [hooksCallback(options), ...callbacks]
  }

  addCallback(callback: TrainerCallback<TrainingArguments>): void {
    this.callbacks.push(callback)
  }

  removeCallback(callback: TrainerCallback<TrainingArguments>): void {
    const at = this.callbacks.indexOf(callback)
    if (at >= 0) this.callbacks.splice(at, 1)
  }

  /**
   * Trains from the checkpoint's weights, or goes on with the run in outputDir. Afterwards the model
   * has the trained weights.
   */
  train(options: { resumeFromCheckpoint?: boolean | string } = {}): Promise<TrainOutput> {
    return this.handle.turns.alone('train', () => this.trainNow(options.resumeFromCheckpoint))
  }

  private async trainNow(from = this.args.resumeFromCheckpoint): Promise<TrainOutput> {
    const { handle, options } = this
    const { signal: stop = NEVER } = options
    const dataset = needed(options.trainDataset, 'train needs a trainDataset')
    const dir = resolve(this.args.outputDir)
    const config = { ...this.config(), resume: resumes(from, dir) }
    const held = this.heldOut(config)
    const data = await this.data(config)
    const run = await claimRun(dir, config)
    try {
      const report = config.disableTqdm ? silent : createReporter(process.stderr)
      const source = datasetSource(data, dataset, held)
      const setup = {
        command: 'ZOTrainer',
        loaded: handle.loaded,
        source,
        objective: data.goal.objective,
        listen: () => this.notify(),
        open: handle.open,
      } as const
      return outputOf(await runTraining(run, setup, config, report, stop))
    } finally {
      await run.release()
    }
  }

  /** Figures of the weights as they are: eval_loss, eval_accuracy, ... and those of computeMetrics. */
  evaluate(
    dataset: readonly Item[] | undefined = this.options.evalDataset,
  ): Promise<Readonly<Record<string, number>>> {
    return this.handle.turns.run(async () => {
      const items = needed(dataset, 'evaluate needs an evalDataset')
      const data = await this.data(this.config())
      const result = await evaluateItems(data, this.handle.engine, items, () => {})
      const figures = Object.entries({ ...result }).filter(([, value]) => value !== undefined)
      return Object.fromEntries(figures.map(([name, value]) => [`eval_${name}`, Number(value)]))
    })
  }

  /** What computeMetrics would be given for a data set. */
  predict(dataset: readonly Item[]): Promise<EvalPrediction<Item>> {
    return this.handle.turns.run(async () => {
      const items = needed(dataset, 'predict needs a dataset')
      return predictItems(await this.data(this.config()), this.handle.engine, items)
    })
  }

  /** Writes a Hugging Face folder, by default model/ in outputDir, with the weights as they are (or a prefix). */
  async saveModel(dir?: string, options: { dtype?: Config['dtype'] } = {}): Promise<void> {
    const { dtype = 'float32' } = objectOf(options, 'saveModel')
    const written = { dtype: DTYPES[dtypeOf(dtype)] }
    return this.handle.turns.run(async () => {
      const { engine, loaded } = this.handle
      const path = dir ?? join(this.args.outputDir, 'model')
      if (dir === undefined) await discard(path)
      await writeTrained(engine, folderOf(path, 'saveModel'), loaded, written)
    })
  }

  /** The batches of a run in their order, without end; each step has as many as it accumulates. */
  async *getTrainDataloader(): AsyncGenerator<BatchInput, void, void> {
    const items = needed(this.options.trainDataset, 'getTrainDataloader needs a trainDataset')
    const config = this.config()
    const data = await this.data(config)
    const { batchSize, seed } = config
    const dataCollator = (batch: readonly Item[]) => collateItems(data, batch)
    yield* dataLoader(items, { batchSize, seed, dataCollator })
  }

  private get handle(): Handle {
    return handleOf(this.options.model, 'ZOTrainer')
  }

  private config(): Config {
    const { trainDataset } = this.options
    return configOfArguments(this.args, trainDataset?.length ?? 0, this.handle.given)
  }

  /** What a run is evaluated on; null: nothing. */
  private heldOut(config: Config): readonly Item[] | null {
    if (evaluates(config)) {
      return needed(this.options.evalDataset, 'evalStrategy needs an evalDataset')
    }
    for (const name of ['evalOnStart', 'loadBestModelAtEnd'] as const) {
      if (config[name]) throw new UserError(`${name} looks at evaluations: give evalStrategy`)
    }
    return null
  }

  private async data(config: Config): Promise<DatasetOptions<Item>> {
    const { dataCollator, computeMetrics, preprocessLogitsForMetrics, tokenizer } = this.options
    const { handle } = this
    const source = () => (tokenizer ? Promise.resolve(tokenizer) : handle.tokenizer())
    return {
      config: { ...config, maxNewTokens: this.options.maxNewTokens ?? config.maxNewTokens },
      goal: await goalOf({ tokenizer: source }, this.options),
      // Any token will do as padding: it is masked.
      padId: tokenizer?.padId ?? (Number(handle.config['pad_token_id'] ?? 0) || 0),
      check: (batch, needsLabels) => handle.check(batch, needsLabels),
      tokenizer: source,
      dataCollator,
      computeMetrics,
      preprocessLogitsForMetrics,
    }
  }

  private notify(): Notify {
    const tell = notifier(this.callbacks, this.args)
    return (event, state, control, details) => {
      this.state = state
      return tell(event, state, control, details)
    }
  }
}

function outputOf(summary: RunSummary): TrainOutput {
  const { steps, trainingLoss, stopped, stoppedEarly, bestStep, bestMetric, modelStep } = summary
  return {
    globalStep: steps,
    trainingLoss: trainingLoss ?? NaN,
    stopped,
    stoppedEarly,
    bestStep,
    bestMetric,
    modelStep,
  }
}

function needed<T>(items: readonly T[] | null | undefined, sentence: string): readonly T[] {
  if (items && items.length > 0) return items
  throw new UserError(`${sentence}; found ${items ? 'an empty one' : 'none'}`)
}

/** Whether to go on with the run in `dir`, the only one there is to go on with. */
function resumes(from: boolean | string | undefined, dir: string): boolean {
  if (typeof from !== 'string') return from === true
  if (resolve(from) === dir || dirname(resolve(from)) === dir) return true
  throw new UserError(
    `resumeFromCheckpoint: a run goes on in its own folder; expected true or outputDir (${dir}), found ${from}`,
  )
}
