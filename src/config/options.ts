// Every option once: meaning, unit, default, range, aliases. The command line, --help, the public
// API and a run's config.json are made from this table; nothing else names a default.

import { availableParallelism } from 'node:os'
import { z } from 'zod'
import { EVALUATION_OPTIONS } from './evaluation.ts'
import { checkMethod, METHOD_OPTIONS } from './method.ts'
import {
  bytes,
  count,
  list,
  parseValue,
  path,
  whole,
  wholeFrom,
  yesNo,
  type OptionSpec,
  flagName,
} from './values.ts'
import { checkPretrain, DECAY_OPTIONS, PRETRAIN_OPTIONS } from './pretrain.ts'
import { checkTask, TASK_OPTIONS } from './data.ts'
import { UserError } from '../util/errors.ts'

const MiB = 2 ** 20

export const OPTIONS = {
  ...METHOD_OPTIONS,

  train: {
    topic: 'data',
    value: 'file',
    help: 'training data: .jsonl .json .csv .tsv .txt .parquet .arrow',
    schema: path,
    aliases: ['train-file'],
  },
  evalFile: {
    topic: 'data',
    value: 'file',
    help: 'held-out data',
    schema: path,
    aliases: ['validation-file'],
  },
  batchSize: {
    topic: 'data',
    value: 'n',
    help: 'sequences per micro-batch',
    schema: count,
    default: 16,
    aliases: ['per-device-train-batch-size'],
  },
  accumulate: {
    topic: 'data',
    value: 'n',
    help: 'micro-batches per step, all under one direction',
    schema: count,
    default: 1,
    aliases: ['gradient-accumulation-steps'],
  },
  maxLength: {
    topic: 'data',
    value: 'T',
    help: 'tokens per sequence at most',
    schema: wholeFrom(2),
    default: 256,
    aliases: ['block-size'],
  },
  ...PRETRAIN_OPTIONS,
  ...TASK_OPTIONS,
  template: {
    topic: 'data',
    value: 'text',
    help: 'prompt for {"text","label"} data, such as "{text} It was"',
    schema: z.string(),
  },
  labelWords: {
    topic: 'data',
    value: 'a,b',
    help: 'answer word of each label, such as terrible,great',
    schema: list,
  },
  textColumn: {
    topic: 'data',
    value: 'name',
    help: 'column that holds the text',
    schema: z.string(),
  },
  labelColumn: {
    topic: 'data',
    value: 'name',
    help: 'column that holds the label',
    schema: z.string(),
  },
  padding: {
    topic: 'data',
    value: 'side',
    help: 'pad sequences left or right',
    schema: z.enum(['left', 'right']),
    default: 'right',
  },

  steps: {
    topic: 'schedule',
    value: 'n',
    help: 'steps in all',
    schema: whole,
    default: 1000,
    aliases: ['max-steps', 'max-iters'],
  },
  lrSchedule: {
    topic: 'schedule',
    value: 'kind',
    help: 'constant, or linear or cosine decay to --min-lr',
    schema: z.enum(['constant', 'linear', 'cosine']),
    default: 'constant',
    aliases: ['lr-scheduler-type'],
  },
  warmupSteps: {
    topic: 'schedule',
    value: 'n',
    help: 'steps of linear warm-up',
    schema: whole,
    default: 0,
    aliases: ['warmup-iters'],
  },
  ...DECAY_OPTIONS,
  ...EVALUATION_OPTIONS,
  loggingSteps: {
    topic: 'schedule',
    value: 'n',
    help: 'steps between two progress lines',
    schema: count,
    default: 10,
    aliases: ['log-interval'],
  },
  maxSkipped: {
    topic: 'schedule',
    value: 'n',
    help: 'stop after n non-finite losses in a row',
    schema: count,
    default: 10,
  },

  device: {
    topic: 'device',
    value: 'kind',
    help: 'auto (a hardware GPU, else cpu), cpu or webgpu',
    schema: z.enum(['auto', 'cpu', 'webgpu']),
    default: 'auto',
  },
  adapter: {
    topic: 'device',
    value: 'name',
    help: 'WebGPU adapter by (part of) its name; the only way to a software adapter',
    schema: z.string(),
  },
  transfer: {
    topic: 'device',
    value: 'kind',
    help: 'WebGPU upload: auto (probed), ring or direct',
    schema: z.enum(['auto', 'ring', 'direct']),
    default: 'auto',
  },
  memory: {
    topic: 'device',
    value: 'bytes',
    help: 'device memory budget, such as 256MiB or 4GiB',
    schema: bytes,
    default: 1024 * MiB,
  },
  slab: {
    topic: 'device',
    value: 'bytes',
    help: 'largest slab that travels at once',
    schema: bytes,
    default: 64 * MiB,
  },
  resident: {
    topic: 'device',
    value: 'kind',
    help: 'weights kept on the device: auto (leading blocks that fit), none or all',
    schema: z.enum(['auto', 'none', 'all']),
    default: 'auto',
  },
  activationDtype: {
    topic: 'device',
    value: 'type',
    help: 'of activations on the device: float32, or float16, which halves them; moves losses by up to 0.02 %, projected gradients by 1 to 2 % at eps 1e-3, the more the smaller eps',
    schema: z.enum(['float32', 'float16']),
    default: 'float32',
  },
  ram: {
    topic: 'device',
    value: 'bytes',
    help: 'folded weights stay in memory up to this size, else in a scratch file',
    schema: bytes,
    default: 128 * MiB,
  },
  scratchDir: {
    topic: 'device',
    value: 'dir',
    help: 'folder of the scratch file (default: the output folder)',
    schema: path,
  },
  threads: {
    topic: 'device',
    value: 'n',
    help: 'CPU threads',
    schema: count,
    default: availableParallelism(),
  },

  outputDir: {
    topic: 'output',
    value: 'dir',
    help: 'where the run writes',
    schema: path,
    aliases: ['out-dir'],
  },
  resume: {
    topic: 'output',
    help: 'continue the run in --output-dir',
    schema: z.boolean(),
    default: false,
    aliases: ['resume-from-checkpoint'],
  },
  saveSteps: {
    topic: 'output',
    value: 'n',
    help: 'save checkpoint-<step>/ every n steps; 0: never (the journal alone is enough to resume)',
    schema: whole,
    default: 0,
  },
  saveTotalLimit: {
    topic: 'output',
    value: 'n',
    help: 'checkpoints kept, the newest',
    schema: count,
    default: 2,
  },
  dtype: {
    topic: 'output',
    value: 'type',
    help: 'weights of model/: float32, float16 or bfloat16',
    schema: z.enum(['float32', 'float16', 'bfloat16']),
    default: 'float32',
  },
  saveModel: {
    topic: 'output',
    value: 'yes|no',
    help: 'write model/ at the end',
    schema: yesNo,
    default: true,
  },
  tensorboard: {
    topic: 'output',
    value: 'yes|no',
    help: 'write event files for TensorBoard to runs/ in the output folder',
    schema: yesNo,
    default: true,
  },
  trace: {
    topic: 'output',
    value: 'file',
    help: 'write a trace of reads, uploads, device work, folds and waits, for ui.perfetto.dev',
    schema: path,
  },

  revision: {
    topic: 'hub',
    value: 'name',
    help: 'branch, tag, commit or refs/pr/N',
    schema: z.string(),
  },
  cacheDir: {
    topic: 'hub',
    value: 'dir',
    help: 'hub cache (default: the one Python uses)',
    schema: path,
  },
} as const satisfies Record<string, OptionSpec>

export type OptionName = keyof typeof OPTIONS
type Values = { [K in OptionName]: z.output<(typeof OPTIONS)[K]['schema']> }
type Optional = {
  [K in OptionName]: 'default' extends keyof (typeof OPTIONS)[K] ? never : K
}[OptionName]

/** All options of a run; those without a default may be absent. */
export type Config = Omit<Values, Optional> & { [K in Optional]?: Values[K] }

/**
 * Fills in defaults and checks ranges. `input` may hold any subset of the options.
 * @throws UserError (usage) naming flag, expectation and what was found
 */
export function parseConfig(input: Readonly<Record<string, unknown>>): Config {
  const unknown = Object.keys(input).find((key) => !Object.hasOwn(OPTIONS, key))
  if (unknown !== undefined) {
    throw new UserError(`unknown option "${unknown}"; known: ${Object.keys(OPTIONS).join(', ')}`, {
      exitCode: 2,
    })
  }
  const config: Record<string, unknown> = {}
  for (const [name, spec] of Object.entries(OPTIONS) as [string, OptionSpec][]) {
    const value = input[name] ?? spec.default
    if (value === undefined) continue
    config[name] = parseValue(`--${flagName(name)}`, spec.schema, value)
  }
  checkMethod(config)
  checkTask(config)
  checkPretrain(config)
  if (config.mezoCompat && input.padding === undefined) config.padding = 'left'
  return config as Config
}
