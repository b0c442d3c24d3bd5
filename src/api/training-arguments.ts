// Hugging Face's TrainingArguments, those of them that mean something with forward passes alone: the
// options of a run by the names that they have there, in either spelling. Where one is left out, the
// default is zo2's. All others are refused by name, with the reason (config/refused.ts).

import {
  parseConfig,
  type Config,
  type SnakeCase,
  type SpelledOptionsOf,
} from '../config/options.ts'
import { settled } from '../config/settle.ts'
import { stepsPerEpoch } from '../train/source.ts'
import { UserError } from '../util/errors.ts'
import { describe } from '../util/untrusted.ts'
import { objectOf } from './guards.ts'

/**
 * All arguments in camelCase, under zo2's and Hugging Face's names; zoEps is MeZO's name of eps.
 * @interface
 */
export type TrainingArgumentsInput = Omit<
  SpelledOptionsOf<'ZOTrainer'>,
  | 'outputDir'
  | 'resume'
  | 'resumeFromCheckpoint'
  | 'objective'
  | 'trainAsClassification'
  | 'maxNewTokens'
  | 'lrSchedulerType'
> & {
  /** The run's folder: journal, metrics, checkpoints. */
  readonly outputDir: string
  /** true, or outputDir: continue the run there. */
  readonly resumeFromCheckpoint?: boolean | string
  readonly lrSchedulerType?: Config['lrSchedule'] | 'constant_with_warmup'
}

/**
 * Arguments in either spelling, outputDir among them.
 * @interface
 */
export type TrainingArgumentsSpelled = Partial<TrainingArgumentsInput> &
  SnakeCase<TrainingArgumentsInput>

export type TrainingArguments = TrainingArgumentsInput

const camel = (name: string) => name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase())

/**
 * An object of the arguments that were given, checked.
 * @throws UserError naming the argument: unknown, without a meaning here, twice, or out of range
 */
export const TrainingArguments = class {
  constructor(given: TrainingArgumentsSpelled) {
    const { resume, ...own } = split(objectOf(given, 'TrainingArguments'))
    parseConfig(own, 'ZOTrainer')
    if (resume !== undefined && typeof resume !== 'boolean' && typeof resume !== 'string') {
      throw new UserError(
        `resumeFromCheckpoint: expected true, false or outputDir, found ${describe(resume)}`,
      )
    }
    const values = Object.entries(given).filter(([, value]) => value !== undefined)
    Object.assign(this, Object.fromEntries(values.map(([name, value]) => [camel(name), value])))
    if (typeof (this as { outputDir?: unknown }).outputDir !== 'string') {
      throw new UserError('outputDir is required: the folder that the run writes')
    }
    Object.freeze(this)
  }
} as new (given: TrainingArgumentsSpelled) => TrainingArguments

/** resumeFromCheckpoint apart: it may name a folder. */
function split(given: object): { resume?: unknown } & Record<string, unknown> {
  const { resumeFromCheckpoint, resume_from_checkpoint, ...own } = given as Record<string, unknown>
  const resume = resumeFromCheckpoint ?? resume_from_checkpoint
  return { ...own, ...(resume !== undefined && { resume }) }
}

/** Whether a run with these arguments evaluates as it goes on. */
export const evaluates = ({
  evalStrategy,
  evalSteps,
}: Pick<Config, 'evalStrategy' | 'evalSteps'>) =>
  (evalStrategy ?? (evalSteps > 0 ? 'steps' : 'no')) !== 'no'

/**
 * The configuration that arguments mean for a data set of `examples` examples.
 * @param model options that the model was opened with
 */
export function configOfArguments(
  args: TrainingArguments,
  examples: number,
  model: object,
): Config {
  const own = split(args)
  delete own.resume
  const config = parseConfig({ ...model, ...own }, 'ZOTrainer', 'fromPretrained')
  const evalStrategy = config.evalStrategy ?? (config.evalSteps > 0 ? 'steps' : 'no')
  return settled({ ...config, evalStrategy }, stepsPerEpoch(examples, config))
}
