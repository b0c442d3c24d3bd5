// Joins the options of tasks to their data: finds the splits (a folder, or the hub), draws and
// encodes examples, and makes the objective that they are trained on.

import { createHash } from 'node:crypto'
import type { Config } from '../config/options.ts'
import { TASKS } from '../data/tasks/index.ts'
import {
  filesIn,
  loadInContext,
  loadTask,
  type TaskData,
  type TaskOptions,
} from '../data/tasks/load.ts'
import type { Split } from '../data/tasks/source.ts'
import type { Task } from '../data/tasks/types.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import { objectiveOf, type Objective } from './objective.ts'
import type { Reporter } from '../util/console.ts'
import type { LoadedModel } from '../engine/open.ts'
import { formatBytes } from '../util/units.ts'
import { resolveSplit } from '../hub/dataset.ts'

const NUM_TRAIN = 1000

/** Train, dev and eval examples of config.task, which must be given. */
export async function taskData(
  { model }: LoadedModel,
  config: Config,
  tokenizer: Tokenizer,
  report: Reporter,
  signal: AbortSignal,
): Promise<TaskData> {
  const task = TASKS.get(config.task!)!
  const { numTrain = NUM_TRAIN, numDev = task.numDev, onlyTrainOption: onlyAnswer } = config
  const options = { ...common(config, model.maxPositions), numTrain, numDev, onlyAnswer }
  const data = await loadTask(task, filesOf(task, config, report, signal), tokenizer, options)
  data.log.forEach((line) => report.line(line))
  return data
}

/** Eval examples of config.task after --num-train demonstrations. */
export async function contextData(
  { model }: Pick<LoadedModel, 'model'>,
  config: Config,
  tokenizer: Tokenizer,
  report: Reporter,
  signal: AbortSignal,
): Promise<readonly Example[]> {
  const task = TASKS.get(config.task!)!
  const options = { ...common(config, model.maxPositions), numTrain: config.numTrain ?? 0 }
  const data = await loadInContext(task, filesOf(task, config, report, signal), tokenizer, options)
  data.log.forEach((line) => report.line(line))
  return data.eval
}

function common(
  config: Config,
  maxPositions: number,
): Omit<TaskOptions, 'numTrain' | 'numDev' | 'onlyAnswer'> {
  const { numEval, trainSetSeed, maxLength, maxNewTokens, sfc, iclSfc } = config
  const calibration = sfc ? 'sfc' : iclSfc ? 'icl-sfc' : 'none'
  return { numEval, trainSetSeed, maxLength, maxNewTokens, maxPositions, calibration }
}

function filesOf(task: Task, config: Config, report: Reporter, signal: AbortSignal) {
  if (config.dataDir !== undefined) return filesIn(config.dataDir, task)
  const { id, config: name } = task.dataset
  return (split: Split) =>
    resolveSplit(id, name, split, {
      ...(config.cacheDir === undefined ? {} : { cacheDir: config.cacheDir }),
      log: (line) => report.line(line),
      onProgress: ({ file, doneBytes, totalBytes }) =>
        report.live(`${id} ${file}  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`),
      signal,
    })
}

/** SHA-256 of what examples are trained on, hex: a run resumes on no other. */
export function examplesHash(examples: readonly Example[]): string {
  const hash = createHash('sha256')
  for (const example of examples) hash.update(JSON.stringify(example)).update('\n')
  return hash.digest('hex')
}

/** How examples become batches and what of these a step makes smaller. */
export interface Aim {
  readonly objective: Objective
  /** Whether every option of an example is a row of the batch. */
  readonly options: boolean
}

/**
 * The aim of --objective and --train-as-classification.
 * @throws UserError (usage) where the training examples cannot serve it
 */
export function aimOf(config: Config, train: readonly Example[], tokenizer: Tokenizer | null): Aim {
  const { objective, trainAsClassification, task } = config
  const data = task === undefined ? (config.train ?? 'the train dataset') : `--task ${task}`
  const need = (has: boolean, flag: string, what: string) => {
    if (!has)
      throw new UserError(`${flag} needs examples with ${what}; ${data} has none`, { exitCode: 2 })
  }
  const options = trainAsClassification || objective === 'accuracy'
  if (objective === 'f1') {
    need(
      train.every((example) => example.generation),
      '--objective f1',
      'answers to generate',
    )
  } else if (options) {
    const flag = trainAsClassification ? '--train-as-classification' : '--objective accuracy'
    need(
      train.every((example) => example.options),
      flag,
      'options',
    )
  }
  return { objective: objectiveOf(config, tokenizer), options }
}
