// MeZO's tasks for programs: the examples that `zo2 finetune --task` trains and scores on.
// Options as the flags of the command line; reading and encoding are src/data/tasks's.

import { objectOf } from './guards.ts'
import { handleOf, type ZoModel } from './model.ts'
import { parseConfig, type OptionsOf } from '../config/options.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import { dataTokenizer } from '../data/model-tokenizer.ts'
import { silent } from '../util/console.ts'
import { taskData } from '../train/task.ts'

/**
 * Options of loadTask; meaning and defaults as the flags of the command line.
 * @interface
 */
export type TaskArguments = Omit<OptionsOf<'loadTask'>, 'task'> & {
  /** Stops a download. */
  readonly signal?: AbortSignal
}

export interface TaskExamples {
  readonly train: readonly Example[]
  readonly dev: readonly Example[]
  readonly eval: readonly Example[]
  /** What they were encoded with. */
  readonly tokenizer: Tokenizer
}

/**
 * Loads a task: sst2, rte, cb, boolq, wsc, wic, multirc, copa, record, squad or drop.
 * @throws UserError for an unknown task, a missing split, or a row that does not fit
 */
export async function loadTask(
  model: ZoModel,
  task: string,
  given: TaskArguments = {},
): Promise<TaskExamples> {
  const { signal = new AbortController().signal, ...options } = objectOf(given, 'loadTask')
  const { loaded } = handleOf(model, 'loadTask')
  const config = parseConfig({ ...options, task }, 'loadTask')
  const tokenizer = await dataTokenizer(loaded, config)
  const { train, dev, eval: held } = await taskData(loaded, config, tokenizer, silent, signal)
  return { train, dev, eval: held, tokenizer }
}
