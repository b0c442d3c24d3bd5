// The options of tasks and objectives: part of the table in options.ts, and which of them go together.
// An option that would do nothing is refused. Names and meanings are those of MeZO's run.py.

import { z } from 'zod'
import { TASKS } from '../data/tasks/index.ts'
import { UserError } from '../util/errors.ts'
import { count, flagName, path, whole, wholeAtMost, yesNo, type OptionSpec } from './values.ts'

const TASK_NAMES = [...TASKS.keys()] as [string, ...string[]]

export const TASK_OPTIONS = {
  task: {
    topic: 'data',
    value: 'name',
    help: `one of MeZO's tasks, instead of a file: ${TASK_NAMES.join(', ')}`,
    schema: z.preprocess(
      (value) => (typeof value === 'string' ? value.toLowerCase() : value),
      z.enum(TASK_NAMES),
    ),
    aliases: ['task-name'],
  },
  dataDir: {
    topic: 'data',
    value: 'dir',
    help: "folder with the task's train and validation splits (parquet, jsonl, json, arrow) instead of the hub's",
    schema: path,
  },
  numTrain: {
    topic: 'data',
    value: 'n',
    help: 'training examples drawn from the train split (default: 1000); with eval, demonstrations in front of every prompt (default: 0)',
    schema: whole,
  },
  numDev: {
    topic: 'data',
    value: 'n',
    help: 'development examples, drawn from the train split too (default: 500; cb and copa: 100)',
    schema: whole,
  },
  numEval: {
    topic: 'data',
    value: 'n',
    help: 'evaluation examples drawn from the validation split at most; 0: none',
    schema: whole,
    default: 1000,
  },
  trainSetSeed: {
    topic: 'data',
    value: 'n',
    help: 'seed of these draws; the same seed draws the same rows as MeZO',
    schema: wholeAtMost(2 ** 32 - 1),
    default: 0,
  },
  trainAsClassification: {
    topic: 'data',
    help: 'train on the cross-entropy over options (mean log-probabilities) instead of the right answer alone',
    schema: z.boolean(),
    default: false,
  },
  onlyTrainOption: {
    topic: 'data',
    value: 'yes|no',
    help: 'a task trains on the answer alone (yes) or on the prompt too (no)',
    schema: yesNo,
    default: true,
  },
  objective: {
    topic: 'data',
    value: 'kind',
    help: 'what to optimise: loss, accuracy (needs options) or f1 (generation tasks); the last two are not differentiable',
    schema: z.enum(['loss', 'accuracy', 'f1']),
    default: 'loss',
  },
  sfc: {
    topic: 'data',
    help: 'calibrate scores by those of the same answers after a prompt without content',
    schema: z.boolean(),
    default: false,
  },
  iclSfc: {
    topic: 'data',
    help: 'the same, with the demonstrations in front',
    schema: z.boolean(),
    default: false,
  },
  maxNewTokens: {
    topic: 'data',
    value: 'n',
    help: 'generation tasks: tokens of an answer at most',
    schema: count,
    default: 50,
  },
  mezoCompat: {
    topic: 'data',
    help: "encode as MeZO's code: for OPT, sequences begin with token 0 instead of 2; padding is left",
    schema: z.boolean(),
    default: false,
  },
} as const satisfies Record<string, OptionSpec>

/** Options that shape training: a resumed run must have the same of them. */
export const TASK_TRAJECTORY = [
  ...['task', 'numTrain', 'numDev', 'trainSetSeed', 'trainAsClassification', 'onlyTrainOption'],
  ...['objective', 'maxNewTokens', 'mezoCompat'],
] as readonly (keyof typeof TASK_OPTIONS)[]

const FILE_ONLY = ['train', 'evalFile', 'template', 'labelWords', 'textColumn', 'labelColumn']
const TASK_ONLY = ['dataDir', 'numTrain', 'numDev', 'sfc', 'iclSfc']

/** @throws UserError (usage) for options that contradict each other, or would do nothing */
export function checkTask(config: Readonly<Record<string, unknown>>): void {
  const given = (name: string) => config[name] !== undefined && config[name] !== false
  const flag = (name: string) => `--${flagName(name)}`
  const refuse = (text: string) => {
    throw new UserError(text, { exitCode: 2 })
  }
  const task = config.task === undefined ? undefined : TASKS.get(config.task as string)
  const useless = (task ? FILE_ONLY : TASK_ONLY).find(given)
  if (useless !== undefined) {
    if (task) refuse(`--task brings its own data and prompts; found ${flag(useless)}: leave it out`)
    refuse(`${flag(useless)} needs --task beside it`)
  }
  const { sfc, iclSfc, trainAsClassification, objective, onlyTrainOption } = config
  if (sfc && iclSfc) refuse('--sfc and --icl-sfc are two ways of calibrating: give one of them')
  if ((sfc || iclSfc) && task?.kind === 'generation') {
    refuse(`--task ${task.name} is answered by generation, which has no scores to calibrate`)
  }
  if (trainAsClassification && objective !== 'loss') {
    refuse(`--train-as-classification is a loss; found --objective ${String(objective)}: give one`)
  }
  if (!onlyTrainOption && (trainAsClassification || objective !== 'loss')) {
    refuse(
      '--only-train-option no means the language-modelling loss: leave the other objective out',
    )
  }
}
