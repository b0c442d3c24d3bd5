// Joins the options of tasks to their data: finds the splits (a folder, or the hub), draws and
// encodes examples, and makes the objective that they are trained on.

import { createHash } from 'node:crypto'
import type { Config } from '../config/options.ts'
import { TASKS } from '../data/tasks/index.ts'
import {
  filesIn,
  loadInContext,
  loadTaskData,
  type TaskData,
  type TaskOptions,
} from '../data/tasks/load.ts'
import type { Split } from '../data/tasks/source.ts'
import type { Task } from '../data/tasks/types.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import type { Reporter } from '../util/console.ts'
import type { LoadedModel } from '../engine/load.ts'
import { UserError } from '../util/errors.ts'
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
  const data = await loadTaskData(task, filesOf(task, config, report, signal), tokenizer, options)
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

/** @throws UserError for an item of a program's own that is no plain value */
function asJson(example: unknown, i: number): string {
  try {
    const text = JSON.stringify(example) as string | undefined
    if (text !== undefined) return text
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause
  }
  throw new UserError(
    `item ${i} of the data cannot be written as JSON, by which a run that goes on knows its data again: give items of plain values`,
  )
}

/** SHA-256 of what examples are trained on, hex: a run resumes on no other. */
export function examplesHash(examples: readonly Example[]): string {
  const hash = createHash('sha256')
  examples.forEach((example, i) => hash.update(asJson(example, i)).update('\n'))
  return hash.digest('hex')
}
