// ZOTrainer: Hugging Face's Trainer on the house's one training loop (src/train/loop.ts) and run folder
// (src/train/open-run.ts). Runs are those of `zo2 finetune`, and those of a loop of one's own over zoInit and
// dataLoader: the same steps, the same journal, the same weights.

import { dirname, join, resolve } from 'node:path'
import { handleOf, type Handle, type ZoModel } from './model.ts'
import { hooksCallback, notifier, type Notify, type StepHooks, type TrainerCallback, type TrainerState } from '../train/callbacks.ts' // prettier-ignore
import type { Config } from '../config/options.ts'
import { dataLoader, type DataCollator } from '../train/data-loader.ts'
import type { BatchInput, Example, Tokenizer } from '../data/types.ts'
import { createDatasets, type ComputeMetrics, type Datasets, type EvalPrediction, type PreprocessLogits } from './data.ts' // prettier-ignore
import { UserError } from '../util/errors.ts'
import { writeTrained } from '../export/result.ts'
import { goalOf, type Goal, type ResolvedGoal } from './goal.ts'
import { meanLoss } from '../run/journal.ts'
import { inRunFolder, keptStep, recordOf, stateAfter } from '../train/open-run.ts'
import { createReporter, silent } from '../util/console.ts'
import { discard } from '../run/folder.ts'
import { DTYPES, methodOf } from '../engine/open.ts'
import { examplesHash } from '../train/task.ts'
import { train } from '../train/loop.ts'
import { configOf, evaluates, TrainingArguments, type TrainingArgumentsSpelled } from './training-arguments.ts' // prettier-ignore

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
    handleOf(options.model, 'ZOTrainer')
    this.args = new TrainingArguments(options.args)
    this.options = options
    this.callbacks = [hooksCallback(options), ...(options.callbacks ?? [])]
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
  async train(options: { resumeFromCheckpoint?: boolean | string } = {}): Promise<TrainOutput> {
    const { trainDataset, signal: stop = NEVER } = this.options
    const { resumeFromCheckpoint = this.args.resumeFromCheckpoint } = options
    const dataset = needed(trainDataset, 'train needs a trainDataset')
    const dir = resolve(this.args.outputDir)
    const config = { ...this.config(), resume: resumes(resumeFromCheckpoint, dir) }
    const held = this.heldOut(config)
    const goal = await this.goal()
    const datasets = this.datasets(config, goal)
    const { handle } = this
    const base = handle.loaded
    const report = this.args.disableTqdm ? silent : createReporter(process.stderr)
    const { method } = methodOf(config, handle.loaded.model)
    const prepare = async () => ({
      record: await recordOf(handle.loaded, examplesHash(dataset as readonly Example[]), config),
    })
    return inRunFolder(dir, config, prepare, async (journal) => {
      const open = async (steps: number) => {
        const entries = journal.entries.slice(0, steps)
        const state = await stateAfter(dir, entries, config, method)
        return handle.train(config, { ...state, prefixDir: dir })
      }
      const engine = await open(journal.entries.length)
      const result = await train({
        ...{ engine, config, journal, objective: goal.objective, base, dir, report, stop },
        feed: datasets.feed(engine, dataset, held),
        notify: this.notify(),
      })
      const modelStep = keptStep(config, result)
      if (modelStep < result.steps) await open(modelStep)
      const losses = journal.entries.map(meanLoss).filter((loss) => loss !== null)
      const { steps: globalStep, stopped, stoppedEarly, bestStep, bestMetric } = result
      const trainingLoss = losses.reduce((sum, loss) => sum + loss, 0) / losses.length
      return { globalStep, trainingLoss, stopped, stoppedEarly, bestStep, bestMetric, modelStep }
    })
  }

  /** Figures of the weights as they are: eval_loss, eval_accuracy, ... and those of computeMetrics. */
  async evaluate(
    dataset: readonly Item[] | undefined = this.options.evalDataset,
  ): Promise<Readonly<Record<string, number>>> {
    const items = needed(dataset, 'evaluate needs an evalDataset')
    const datasets = this.datasets(this.config(), await this.goal())
    const result = await datasets.evaluate(this.handle.engine, items, () => {})
    const figures = Object.entries({ ...result }).filter(([, value]) => value !== undefined)
    return Object.fromEntries(figures.map(([name, value]) => [`eval_${name}`, Number(value)]))
  }

  /** What computeMetrics would be given for a data set. */
  async predict(dataset: readonly Item[]): Promise<EvalPrediction<Item>> {
    const items = needed(dataset, 'predict needs a dataset')
    return this.datasets(this.config(), await this.goal()).predict(this.handle.engine, items)
  }

  /** Writes a Hugging Face folder, by default model/ in outputDir, with the weights as they are (or a prefix). */
  async saveModel(dir?: string, { dtype = 'float32' }: { dtype?: Config['dtype'] } = {}) {
    const { engine, loaded } = this.handle
    const path = dir ?? join(this.args.outputDir, 'model')
    if (dir === undefined) await discard(path)
    await writeTrained(engine, path, loaded, { dtype: DTYPES[dtype] })
  }

  /** The batches of a run in their order, without end; each step has as many as it accumulates. */
  async *getTrainDataloader(): AsyncGenerator<BatchInput, void, void> {
    const items = needed(this.options.trainDataset, 'getTrainDataloader needs a trainDataset')
    const config = this.config()
    const { collate } = this.datasets(config, await this.goal())
    const { batchSize, seed } = config
    yield* dataLoader(items, { batchSize, seed, dataCollator: collate })
  }

  private get handle(): Handle {
    return handleOf(this.options.model, 'ZOTrainer')
  }

  private config(): Config {
    const { trainDataset = [] } = this.options
    return configOf(this.args, trainDataset.length, this.handle.given)
  }

  /** What a run is evaluated on; null: nothing. */
  private heldOut(config: Config): readonly Item[] | null {
    if (evaluates(this.args)) {
      return needed(this.options.evalDataset, 'evalStrategy needs an evalDataset')
    }
    for (const name of ['evalOnStart', 'loadBestModelAtEnd'] as const) {
      if (config[name]) throw new UserError(`${name} looks at evaluations: give evalStrategy`)
    }
    return null
  }

  private tokenizer(): Promise<Tokenizer> {
    const { tokenizer } = this.options
    return tokenizer ? Promise.resolve(tokenizer) : this.handle.tokenizer()
  }

  private goal(): Promise<ResolvedGoal> {
    return goalOf({ tokenizer: () => this.tokenizer() }, this.options)
  }

  private datasets(config: Config, goal: ResolvedGoal): Datasets<Item> {
    const { dataCollator, computeMetrics, preprocessLogitsForMetrics, tokenizer } = this.options
    const { handle } = this
    // Any token will do as padding: it is masked.
    const padId = tokenizer?.padId ?? (Number(handle.config['pad_token_id'] ?? 0) || 0)
    return createDatasets({
      ...{ config: { ...config, maxNewTokens: this.options.maxNewTokens ?? config.maxNewTokens } },
      ...{ goal, padId, dataCollator, computeMetrics, preprocessLogitsForMetrics },
      check: (batch, needsLabels) => handle.check(batch, needsLabels),
      tokenizer: () => this.tokenizer(),
    })
  }

  private notify(): Notify {
    const tell = notifier(this.callbacks, this.args)
    return (event, state, control, details) => {
      this.state = state
      return tell(event, state, control, details)
    }
  }
}

function needed<T>(items: readonly T[] | undefined, sentence: string): readonly T[] {
  if (items !== undefined && items.length > 0) return items
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
