// A task's examples, ready to train and score on: which rows (MeZO's sampling), as which tokens.
//
//   train and dev   num_train + num_dev rows of the train split; dev is the last num_dev of them
//   eval            num_eval rows of the validation split
//
// both in the order of NumPy's permutation under --train-set-seed, as MeZO draws them. Without
// training the train rows are demonstrations in front of every eval prompt.

import { UserError } from '../../util/errors.ts'
import type { Example, Tokenizer } from '../types.ts'
import { atPlace } from '../lost-characters.ts'
import { encodeSample, type EncodeOptions } from './encode.ts'
import { numpyPermutation } from './numpy-random.ts'
import { countRows, rowsAt, splitFiles, type Split } from './source.ts'
import type { Task } from './types.ts'

export interface TaskOptions {
  readonly numTrain: number
  readonly numDev: number
  readonly numEval: number
  readonly trainSetSeed: number
  /** Tokens per sequence at most, room for a generated answer included. */
  readonly maxLength: number
  readonly maxNewTokens: number
  readonly maxPositions: number
  readonly onlyAnswer: boolean
  readonly calibration: EncodeOptions['calibration']
}

export interface TaskData {
  readonly train: readonly Example[]
  readonly dev: readonly Example[]
  readonly eval: readonly Example[]
  /** Sentences the user should read. */
  readonly log: readonly string[]
}

type FilesOf = (split: Split) => Promise<readonly string[]>

/** Where the splits of a task lie in a local folder. */
export const filesIn =
  (dir: string, task: Task): FilesOf =>
  (split) =>
    splitFiles(dir, task, split)

/**
 * Reads what training needs: train, dev and eval examples.
 * @throws UserError for a missing split, a row that does not fit, or too few rows
 */
export async function loadTaskData(
  task: Task,
  filesOf: FilesOf,
  tokenizer: Tokenizer,
  options: TaskOptions,
): Promise<TaskData> {
  const { numTrain, numDev, numEval } = options
  const read = await readerOf(task, filesOf, tokenizer, options)
  const rows = await read.rows('train', numTrain + numDev)
  const numLeft = rows.length - numDev
  if (numLeft < 1) {
    throw new UserError(
      `the train split of ${task.name} has ${read.total.get('train')} rows, none of which is left ` +
        `to train on beside --num-dev ${numDev}: lower it`,
    )
  }
  const [train, dev] = [rows.slice(0, numLeft), rows.slice(numLeft)]
  const held = await read.rows('validation', numEval)
  const log = [
    `task ${task.name}: ${train.length} training, ${dev.length} development and ${held.length} evaluation examples`,
  ]
  if (numLeft < numTrain) {
    log.push(
      `the train split has ${read.total.get('train')} rows, so that ${numLeft} are left to train on beside --num-dev ${numDev}`,
    )
  }
  const encode = { demonstrations: [], onlyAnswer: true, calibration: options.calibration }
  const { onlyAnswer } = options
  const trained = read.encode(train, { ...encode, onlyAnswer, calibration: 'none' })
  const examples = { dev: read.encode(dev, encode), eval: read.encode(held, encode) }
  return { train: trained, ...examples, log: [...log, ...read.notes()] }
}

/** Reads what zero-shot scoring and in-context learning need: eval examples after demonstrations. */
export async function loadInContext(
  task: Task,
  filesOf: FilesOf,
  tokenizer: Tokenizer,
  options: Omit<TaskOptions, 'numDev' | 'onlyAnswer'>,
): Promise<Pick<TaskData, 'eval' | 'log'>> {
  const read = await readerOf(task, filesOf, tokenizer, options)
  const shown = options.numTrain > 0 ? await read.rows('train', options.numTrain) : []
  const held = await read.rows('validation', options.numEval)
  if (held.length === 0) throw new UserError('--num-eval 0 leaves nothing to evaluate')
  const demonstrations = shown.map((row) => task.sample(row))
  const { calibration } = options
  const examples = read.encode(held, { demonstrations, onlyAnswer: true, calibration })
  const log = `task ${task.name}: ${examples.length} evaluation examples, ${shown.length} demonstrations`
  return { eval: examples, log: [log, ...read.notes()] }
}

type Reading = Pick<TaskOptions, 'trainSetSeed' | 'maxLength' | 'maxNewTokens' | 'maxPositions'>

async function readerOf(task: Task, filesOf: FilesOf, tokenizer: Tokenizer, options: Reading) {
  const { trainSetSeed, maxPositions } = options
  if (options.maxLength > maxPositions) {
    throw new UserError(
      `--max-length ${options.maxLength} makes sequences longer than the model's ${maxPositions} ` +
        `positions: give --max-length ${maxPositions} or less`,
    )
  }
  const maxLength = options.maxLength - (task.kind === 'generation' ? options.maxNewTokens : 0)
  if (maxLength < 2) {
    throw new UserError(
      `--max-length ${options.maxLength} leaves no room for a prompt beside --max-new-tokens ` +
        `${options.maxNewTokens}: raise the one or lower the other`,
    )
  }
  const total = new Map<Split, number>()
  let [truncated, count] = [0, 0]
  return {
    /** Rows of each split that was read. */
    total,
    async rows(split: Split, most: number) {
      const files = await filesOf(split)
      total.set(split, await countRows(files))
      const order = numpyPermutation(total.get(split)!, trainSetSeed).slice(0, most)
      return rowsAt(files, [...order])
    },
    encode(
      rows: Awaited<ReturnType<typeof rowsAt>>,
      context: Omit<EncodeOptions, 'maxLength'>,
    ): Example[] {
      const settings = { ...context, maxLength }
      return rows.map((row) => {
        const encoded = atPlace(row.place, () =>
          encodeSample(task.sample(row), row.place, tokenizer, settings),
        )
        truncated += Number(encoded.truncated)
        count++
        return encoded.example
      })
    },
    notes: () =>
      truncated === 0
        ? []
        : [
            `${truncated} of ${count} examples are longer than ${maxLength} tokens and lost their left end; see --max-length`,
          ],
  }
}
