// The options of a run's length and rate, with Hugging Face's ways of saying them by epochs and shares:
// what those mean is settled when the data is known (settle.ts).

import { z } from 'zod'
import { RUNS, type Command, type OptionSpec, type Values } from '../spec.ts'
import { count, nonnegative, oneOf, positive, whole, yesNo } from '../values.ts'

/** nanoGPT's configurations have these beside decay_lr = False too. */
const decays = ({ lrSchedule }: Values, commands: readonly Command[]) =>
  lrSchedule !== 'constant' || !commands.some((c) => c === 'finetune' || c === 'ZOTrainer')
const OF_DECAY = 'is for --lr-schedule linear or cosine: leave it out'

export const SCHEDULE_OPTIONS = {
  steps: {
    group: 'schedule',
    value: 'n',
    help: 'steps in all',
    schema: whole,
    default: 1000,
    defaults: { bench: 3 },
    none: -1,
    aliases: ['max-steps', 'max-iters'],
    commands: [...RUNS, 'plan', 'bench'],
    trajectory: false,
  },
  lrSchedule: {
    group: 'schedule',
    value: 'kind',
    help: 'constant, or linear or cosine decay to --min-lr',
    schema: z.preprocess(
      (kind) => (kind === 'constant_with_warmup' ? 'constant' : kind),
      oneOf(['constant', 'linear', 'cosine']),
    ),
    default: 'constant',
    aliases: ['lr-scheduler-type'],
    commands: RUNS,
    trajectory: true,
  },
  warmupSteps: {
    group: 'schedule',
    value: 'n',
    help: 'steps of linear warm-up',
    schema: whole,
    default: 0,
    aliases: ['warmup-iters'],
    commands: RUNS,
    trajectory: true,
  },
  decayLr: {
    group: 'schedule',
    value: 'yes|no',
    help: "nanoGPT's name for --lr-schedule cosine (yes) or constant (no)",
    schema: yesNo,
    commands: ['pretrain'],
    trajectory: false,
    means: (decays) => ({ lrSchedule: decays ? 'cosine' : 'constant' }),
  },
  minLr: {
    group: 'schedule',
    value: 'x',
    help: 'rate that the decay ends at',
    schema: nonnegative,
    default: 0,
    commands: RUNS,
    trajectory: true,
    onlyWhen: decays,
    otherwise: OF_DECAY,
  },
  lrDecaySteps: {
    group: 'schedule',
    value: 'n',
    help: 'steps until the decay ends (default: --steps)',
    schema: count,
    aliases: ['lr-decay-iters'],
    commands: RUNS,
    trajectory: true,
    onlyWhen: decays,
    otherwise: OF_DECAY,
  },
  loggingSteps: {
    group: 'schedule',
    value: 'n',
    help: 'steps between two progress lines',
    schema: count,
    default: 10,
    aliases: ['log-interval'],
    commands: RUNS,
    trajectory: false,
  },
  maxSkipped: {
    group: 'schedule',
    value: 'n',
    help: 'stop after n non-finite losses in a row',
    schema: count,
    default: 10,
    commands: RUNS,
    trajectory: false,
  },
  numTrainEpochs: {
    group: 'schedule',
    value: 'x',
    help: 'instead of --steps: times that all examples are seen, also a fraction; no batch is short',
    schema: positive,
    aliases: ['epochs'],
    commands: RUNS,
    trajectory: false,
    excludes: ['steps'],
    because: 'they mean the same',
  },
  warmupRatio: {
    group: 'schedule',
    value: 'x',
    help: 'instead of --warmup-steps: a share of all steps',
    schema: nonnegative.refine((share) => share <= 1, 'expected a number from 0 to 1'),
    commands: RUNS,
    trajectory: false,
    excludes: ['warmupSteps'],
    because: 'they mean the same',
  },
  saveStrategy: {
    group: 'output',
    value: 'kind',
    help: "Hugging Face's way of saying when to save: no, every --save-steps (or 500), or every epoch",
    schema: oneOf(['no', 'steps', 'epoch']),
    commands: RUNS,
    trajectory: false,
    // As evalStrategy.
    onlyWhen: ({ saveStrategy, saveSteps }, commands) =>
      commands.includes('ZOTrainer') || saveStrategy === 'steps' || saveSteps === 0,
    otherwise: 'no and epoch leave nothing for --save-steps to say: leave one out',
  },
} as const satisfies Record<string, OptionSpec>
