// The options of MeZO's tasks and of objectives. Names and meanings are those of its run.py.
// Reading and encoding are src/data/tasks's.

import { z } from 'zod'
import { TASKS } from '../../data/tasks/index.ts'
import type { OptionSpec } from '../spec.ts'
import { count, isOn, oneOf, path, whole, wholeAtMost, yesNo } from '../values.ts'

const GENERATED = [...TASKS.values()].filter((t) => t.kind === 'generation').map((t) => t.name)
const TASK_NAMES = [...TASKS.keys()] as [string, ...string[]]

export const TASK_OPTIONS = {
  task: {
    group: 'data',
    value: 'name',
    help: `one of MeZO's tasks, instead of a file: ${TASK_NAMES.join(', ')}`,
    schema: z.preprocess(
      (value) => (typeof value === 'string' ? value.toLowerCase() : value),
      oneOf(TASK_NAMES),
    ),
    aliases: ['task-name'],
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: true,
    excludes: ['train', 'evalFile', 'template', 'labelWords', 'textColumn', 'labelColumn'],
    because: 'it brings its own data and prompts',
  },
  dataDir: {
    group: 'data',
    value: 'dir',
    help: "folder with the task's train and validation splits (parquet, jsonl, json, arrow) instead of the hub's",
    schema: path,
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: false,
    needs: ['task'],
    card: 'hidden',
  },
  numTrain: {
    group: 'data',
    value: 'n',
    help: 'training examples drawn from the train split (default: 1000); with eval, demonstrations in front of every prompt (default: 0)',
    schema: whole,
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: true,
    needs: ['task'],
  },
  numDev: {
    group: 'data',
    value: 'n',
    help: 'development examples, drawn from the train split too (default: 500; cb and copa: 100)',
    schema: whole,
    commands: ['finetune', 'loadTask'],
    trajectory: true,
    needs: ['task'],
  },
  numEval: {
    group: 'data',
    value: 'n',
    help: 'evaluation examples drawn from the validation split at most; 0: none',
    schema: whole,
    default: 1000,
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: false,
    needs: ['task'],
  },
  trainSetSeed: {
    group: 'data',
    value: 'n',
    help: 'seed of these draws; the same seed draws the same rows as MeZO',
    schema: wholeAtMost(2 ** 32 - 1),
    default: 0,
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: true,
    needs: ['task'],
  },
  trainAsClassification: {
    group: 'data',
    help: 'train on the cross-entropy over options (mean log-probabilities) instead of the right answer alone',
    schema: isOn,
    default: false,
    commands: ['finetune', 'zoInit', 'ZOTrainer'],
    trajectory: true,
    excludes: ['objective', 'onlyTrainOption'],
    because: 'it is a loss of its own',
  },
  onlyTrainOption: {
    group: 'data',
    value: 'yes|no',
    help: 'a task trains on the answer alone (yes) or on the prompt too (no)',
    schema: yesNo,
    default: true,
    commands: ['finetune', 'loadTask'],
    trajectory: true,
    needs: ['task'],
  },
  objective: {
    group: 'data',
    value: 'kind',
    help: 'what to optimise: loss, accuracy (needs options) or f1 (generation tasks); the last two are not differentiable',
    schema: oneOf(['loss', 'accuracy', 'f1']),
    default: 'loss',
    commands: ['finetune', 'zoInit', 'ZOTrainer'],
    trajectory: true,
    excludes: ['onlyTrainOption'],
    because: 'no means the language-modelling loss',
  },
  sfc: {
    group: 'data',
    help: 'calibrate scores by those of the same answers after a prompt without content',
    schema: isOn,
    default: false,
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: false,
    needs: ['task'],
    excludes: ['iclSfc'],
    because: 'they are two ways of calibrating',
  },
  iclSfc: {
    group: 'data',
    help: 'the same, with the demonstrations in front',
    schema: isOn,
    default: false,
    commands: ['eval', 'loadTask'],
    trajectory: false,
    needs: ['task', 'numTrain'],
  },
  maxNewTokens: {
    group: 'data',
    value: 'n',
    help: 'tokens to add to a prompt at most (generation tasks: of an answer)',
    schema: count,
    default: 50,
    defaults: { generate: 64, chat: 512, sample: 500 },
    commands: [
      ...(['finetune', 'eval', 'generate', 'chat', 'sample'] as const),
      ...(['zoInit', 'ZOTrainer', 'loadTask'] as const),
    ],
    trajectory: true,
    onlyWhen: ({ task }, commands) =>
      !commands.some((command) => ['finetune', 'eval', 'loadTask'].includes(command)) ||
      TASKS.get(String(task))?.kind === 'generation',
    otherwise: `is for tasks whose answers are generated (${GENERATED.join(', ')}): leave it out`,
  },
  mezoCompat: {
    group: 'data',
    help: "encode as MeZO's code: for OPT, sequences begin with token 0 instead of 2",
    schema: isOn,
    default: false,
    commands: ['finetune', 'eval', 'loadTask'],
    trajectory: true,
  },
} as const satisfies Record<string, OptionSpec>
