// Hugging Face's TrainingArguments, those of them that mean something with forward passes alone, and
// their way to the options of src/config/options.ts. Each has the name and the meaning that it has there; where
// none is given, the default is zo2's. All others are refused by name, with the reason.

import type { MethodArguments } from './model.ts'
import { OPTIONS, parseConfig, type Config, type OptionName } from '../config/options.ts'
import { UserError } from '../util/errors.ts'
import { METHOD_KEYS } from '../config/method.ts'
import { parseValue } from '../config/values.ts'
import { REFUSED } from './training-arguments-refused.ts'

type Strategy = 'no' | 'steps' | 'epoch'

/** All arguments in camelCase; Hugging Face's own snake_case is accepted for each. */
export interface TrainingArgumentsInput extends MethodArguments {
  /** The run's folder: journal, metrics, checkpoints. */
  readonly outputDir: string
  /** Steps in all; 1000 by default. Takes precedence over numTrainEpochs. */
  readonly maxSteps?: number
  /** Epochs, also a fraction; they stand one after another, no batch is short. */
  readonly numTrainEpochs?: number
  readonly perDeviceTrainBatchSize?: number
  /** By default perDeviceTrainBatchSize. */
  readonly perDeviceEvalBatchSize?: number
  /** Batches per step: all are seen by the same probes, and their tokens count alike. */
  readonly gradientAccumulationSteps?: number
  /** 1e-6 by default. */
  readonly learningRate?: number
  readonly lrSchedulerType?: 'constant' | 'constant_with_warmup' | 'linear' | 'cosine'
  readonly warmupSteps?: number
  /** Warm-up as a share of all steps. */
  readonly warmupRatio?: number
  /** MeZO's name of eps. */
  readonly zoEps?: number
  /** When to evaluate: 'no' by default, 'steps' if evalSteps is given. Also at the end. */
  readonly evalStrategy?: Strategy
  readonly evalSteps?: number
  /** Evaluate before the first step; false by default. */
  readonly evalOnStart?: boolean
  /** When to save checkpoint-<step>/: 'no' by default, 'steps' if saveSteps is given. */
  readonly saveStrategy?: Strategy
  readonly saveSteps?: number
  /** Checkpoints kept; 2 by default. */
  readonly saveTotalLimit?: number
  /** The model is left with the weights of the best evaluation; needs no checkpoint. */
  readonly loadBestModelAtEnd?: boolean
  /** With or without eval_ in front; loss by default. */
  readonly metricForBestModel?: string
  readonly greaterIsBetter?: boolean
  readonly loggingSteps?: number
  /** 'tensorboard' by default; or 'none'. */
  readonly reportTo?: string | readonly string[]
  /** true, or outputDir: continue the run there. */
  readonly resumeFromCheckpoint?: boolean | string
  /** No progress lines on stderr. */
  readonly disableTqdm?: boolean
  /** Side of padding, where no dataCollator pads. */
  readonly padding?: Config['padding']
  /** Stop after that many non-finite losses in a row. */
  readonly maxSkipped?: number
}

type Snake<S extends string> = S extends `${infer Head}${infer Tail}`
  ? `${Head extends Lowercase<Head> ? Head : `_${Lowercase<Head>}`}${Snake<Tail>}`
  : ''
type Known = TrainingArgumentsInput
type SnakeCase = { readonly [K in keyof Known as Snake<K>]?: Known[K] }

/** Arguments in either spelling, outputDir among them. */
export type TrainingArgumentsSpelled = Partial<Known> & SnakeCase

export type TrainingArguments = Known

/** Arguments that are an option of the command line, by the option's name. */
const OPTION_OF: Readonly<Record<string, OptionName>> = {
  ...Object.fromEntries(METHOD_KEYS.map((key) => [key, key])),
  maxSteps: 'steps',
  perDeviceTrainBatchSize: 'batchSize',
  perDeviceEvalBatchSize: 'evalBatchSize',
  gradientAccumulationSteps: 'accumulate',
  learningRate: 'lr',
  zoEps: 'eps',
  ...{ outputDir: 'outputDir', warmupSteps: 'warmupSteps', evalSteps: 'evalSteps' },
  ...{ evalOnStart: 'evalOnStart', saveSteps: 'saveSteps', saveTotalLimit: 'saveTotalLimit' },
  loadBestModelAtEnd: 'loadBestModelAtEnd',
  metricForBestModel: 'metricForBestModel',
  ...{ greaterIsBetter: 'greaterIsBetter', loggingSteps: 'loggingSteps' },
  ...{ padding: 'padding', maxSkipped: 'maxSkipped' },
}

const STRATEGIES = ['no', 'steps', 'epoch']

/** Those that are more than an option; what each may be. */
const SPECIAL: Readonly<
  Record<string, readonly [expected: string, fits: (v: unknown) => boolean]>
> = {
  numTrainEpochs: ['a number above 0', (v) => typeof v === 'number' && v > 0 && v < Infinity],
  warmupRatio: ['a number from 0 to 1', (v) => typeof v === 'number' && v >= 0 && v <= 1],
  lrSchedulerType: ['constant, constant_with_warmup, linear or cosine', (v) => ['constant', 'constant_with_warmup', 'linear', 'cosine'].includes(v as string)], // prettier-ignore
  evalStrategy: ['no, steps or epoch', (v) => STRATEGIES.includes(v as string)],
  saveStrategy: ['no, steps or epoch', (v) => STRATEGIES.includes(v as string)],
  reportTo: ['tensorboard or none', (v) => [v].flat().every((name) => ['none', 'all', 'tensorboard'].includes(name as string))], // prettier-ignore
  resumeFromCheckpoint: [
    'true, false or outputDir',
    (v) => ['boolean', 'string'].includes(typeof v),
  ],
  disableTqdm: ['true or false', (v) => typeof v === 'boolean'],
}

const camel = (name: string) => name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase())

/** Older spellings. */
const RENAMED: Readonly<Record<string, string>> = { evaluationStrategy: 'evalStrategy' }

/**
 * Checks names and values.
 * @throws UserError naming the argument: unknown, without a meaning here, twice, or out of range
 */
function checked(given: object): TrainingArguments {
  const result: Record<string, unknown> = {}
  for (const [spelled, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue
    const plain = camel(spelled)
    const name = RENAMED[plain] ?? plain
    const reason = REFUSED.find(([names]) => names.test(name))?.[1]
    if (reason !== undefined) throw new UserError(`${spelled}: ${reason}; leave it out`)
    if (name in result) throw new UserError(`${spelled} is given in two spellings; leave one out`)
    result[name] = checkedValue(spelled, name, value)
  }
  if (typeof result['outputDir'] !== 'string') {
    throw new UserError('outputDir is required: the folder that the run writes')
  }
  for (const [one, other] of [
    ['lr', 'learningRate'],
    ['eps', 'zoEps'],
    ['warmupSteps', 'warmupRatio'],
  ]) {
    // prettier-ignore
    if (result[one!] === undefined || result[other!] === undefined) continue
    throw new UserError(`${one} and ${other} mean the same; leave one out`)
  }
  return result as unknown as TrainingArguments
}

function checkedValue(spelled: string, name: string, value: unknown): unknown {
  if (name === 'maxSteps' && value === -1) return undefined // Hugging Face's way of leaving it out
  const option = Object.hasOwn(OPTION_OF, name) ? OPTION_OF[name] : undefined
  if (option) return parseValue(spelled, OPTIONS[option].schema, value)
  const special = Object.hasOwn(SPECIAL, name) ? SPECIAL[name] : undefined
  if (!special) {
    const known = [...Object.keys(OPTION_OF), ...Object.keys(SPECIAL)].sort()
    throw new UserError(`unknown argument "${spelled}"; known: ${known.join(', ')}`)
  }
  const [expected, fits] = special
  if (fits(value)) return value
  throw new UserError(`${spelled}: expected ${expected}, found ${JSON.stringify(value)}`)
}

/**
 * Hugging Face's TrainingArguments: an object of the arguments that were given, checked.
 * @throws UserError naming the argument: unknown, without a meaning here, twice, or out of range
 */
export const TrainingArguments = class {
  constructor(given: TrainingArgumentsSpelled) {
    Object.assign(this, checked(given))
    Object.freeze(this)
  }
} as new (given: TrainingArgumentsSpelled) => TrainingArguments

/** Whether a run with these arguments evaluates as it goes on. */
export const evaluates = ({ evalStrategy, evalSteps }: TrainingArguments): boolean =>
  (evalStrategy ?? (evalSteps === undefined ? 'no' : 'steps')) !== 'no'

/**
 * The configuration that arguments mean for a data set of `examples` examples.
 * @param model options that the model was opened with
 */
export function configOf(args: TrainingArguments, examples: number, model: object): Config {
  const options: Record<string, unknown> = { ...model, evalOnStart: false }
  for (const [name, option] of Object.entries(OPTION_OF)) {
    const value = args[name as keyof TrainingArguments]
    if (value !== undefined) options[option] = value
  }
  const { batchSize, accumulate } = parseConfig(defined(options))
  const perEpoch = examples / (batchSize * accumulate)
  const { maxSteps, numTrainEpochs, warmupRatio, lrSchedulerType: schedule } = args
  if (maxSteps === undefined && numTrainEpochs !== undefined) {
    options['steps'] = Math.ceil(numTrainEpochs * perEpoch)
  }
  const steps = (options['steps'] as number | undefined) ?? OPTIONS.steps.default
  if (warmupRatio !== undefined) options['warmupSteps'] = Math.ceil(warmupRatio * steps)
  if (schedule) options['lrSchedule'] = schedule === 'constant_with_warmup' ? 'constant' : schedule
  const every = (strategy: Strategy | undefined, given: number | undefined, usual: number) => {
    if (strategy === 'no') return 0
    if (strategy === 'epoch') return Math.max(1, Math.ceil(perEpoch))
    return given ?? (strategy === 'steps' ? usual : 0)
  }
  const logging = args.loggingSteps ?? OPTIONS.loggingSteps.default
  options['evalSteps'] = every(args.evalStrategy, args.evalSteps, logging)
  options['saveSteps'] = every(args.saveStrategy, args.saveSteps, SAVE_STEPS)
  options['tensorboard'] = [args.reportTo ?? 'all'].flat().every((name) => name !== 'none')
  return parseConfig(defined(options))
}

/** Of saveStrategy 'steps', as in Hugging Face. */
const SAVE_STEPS = 500

const defined = (options: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
