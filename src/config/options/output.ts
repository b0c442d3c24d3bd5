// The options of what a run writes, and of the hub that models come from.
// Writing is src/run's and src/export's, the hub src/hub's.

import { z } from 'zod'
import { ON_HUB, RUNS, type OptionSpec } from '../spec.ts'
import { count, isOn, oneOf, path, text, whole, yesNo } from '../values.ts'

const loggers = z
  .string('expected tensorboard or none')
  .refine((name) => ['none', 'all', 'tensorboard'].includes(name), 'expected tensorboard or none')

export const OUTPUT_OPTIONS = {
  outputDir: {
    group: 'output',
    value: 'dir',
    help: 'where the run writes',
    schema: path,
    defaults: { sample: 'out' },
    aliases: ['out-dir'],
    commands: [...RUNS, 'sample'],
    trajectory: false,
    card: 'hidden',
    onlyWhen: ({ initFrom }, commands) => !commands.includes('sample') || initFrom === 'resume',
    otherwise: 'is for --init-from resume: leave one out',
  },
  resume: {
    group: 'output',
    help: 'continue the run in --output-dir',
    schema: isOn,
    default: false,
    aliases: ['resume-from-checkpoint'],
    commands: RUNS,
    trajectory: false,
  },
  saveSteps: {
    group: 'output',
    value: 'n',
    help: 'save checkpoint-<step>/ every n steps; 0: never (the journal alone is enough to resume)',
    schema: whole,
    default: 0,
    commands: RUNS,
    trajectory: false,
  },
  saveTotalLimit: {
    group: 'output',
    value: 'n',
    help: 'checkpoints kept, the newest',
    schema: count,
    default: 2,
    commands: RUNS,
    trajectory: false,
    needs: [['saveSteps', 'saveStrategy']],
  },
  dtype: {
    group: 'output',
    value: 'type',
    help: 'weights of model/: float32, float16 or bfloat16',
    schema: oneOf(['float32', 'float16', 'bfloat16']),
    default: 'float32',
    commands: ['finetune', 'pretrain', 'export'],
    trajectory: false,
    onlyWhen: ({ saveModel }) => saveModel === true,
    otherwise: 'is of model/, which is not to be written: give --save-model yes, or leave it out',
  },
  saveModel: {
    group: 'output',
    value: 'yes|no',
    help: 'write model/ at the end',
    schema: yesNo,
    default: true,
    commands: ['finetune', 'pretrain'],
    trajectory: false,
  },
  tensorboard: {
    group: 'output',
    value: 'yes|no',
    help: 'write event files for TensorBoard to runs/ in the output folder',
    schema: yesNo,
    default: true,
    commands: ['finetune', 'pretrain'],
    trajectory: false,
  },
  reportTo: {
    group: 'output',
    value: 'names',
    help: "Hugging Face's way of saying --tensorboard yes (tensorboard, all) or no (none)",
    schema: z.union([loggers, z.array(loggers)]),
    commands: RUNS,
    trajectory: false,
    means: (names) => ({ tensorboard: [names].flat().every((name) => name !== 'none') }),
  },
  disableTqdm: {
    group: 'output',
    help: 'no progress on stderr, as --quiet',
    schema: isOn,
    default: false,
    commands: RUNS,
    trajectory: false,
  },
  trace: {
    group: 'output',
    value: 'file',
    help: 'write a trace of reads, uploads, device work, folds and waits, for ui.perfetto.dev',
    schema: path,
    commands: ['finetune', 'pretrain', 'eval', 'generate'],
    trajectory: false,
    card: 'hidden',
  },
  revision: {
    group: 'hub',
    value: 'name',
    help: 'branch, tag, commit or refs/pr/N',
    schema: text,
    commands: ON_HUB,
    trajectory: false,
  },
  cacheDir: {
    group: 'hub',
    value: 'dir',
    help: 'hub cache (default: the one Python uses)',
    schema: path,
    commands: [...ON_HUB, 'export', 'loadTask'],
    trajectory: false,
    card: 'hidden',
  },
} as const satisfies Record<string, OptionSpec>
