// The options of evaluation during a run: when, on what, and what follows from it (the best model,
// early stopping). Part of the table in options.ts.

import { z } from 'zod'
import { UserError } from '../util/errors.ts'
import { count, flagName, nonnegative, whole, yesNo, type OptionSpec } from './values.ts'

export const EVALUATION_OPTIONS = {
  evalSteps: {
    topic: 'schedule',
    value: 'n',
    help: 'evaluate every n steps, besides start and end; 0: only these',
    schema: whole,
    default: 0,
    aliases: ['eval-interval'],
  },
  evalOnStart: {
    topic: 'schedule',
    value: 'yes|no',
    help: 'evaluate before the first step',
    schema: yesNo,
    default: true,
  },
  evalSamples: {
    topic: 'schedule',
    value: 'n',
    help: 'examples of the held-out data used at most; 0: all',
    schema: whole,
    default: 0,
  },
  evalBatchSize: {
    topic: 'schedule',
    value: 'n',
    help: 'sequences per forward pass of evaluation (default: --batch-size)',
    schema: count,
    aliases: ['per-device-eval-batch-size'],
  },
  loadBestModelAtEnd: {
    topic: 'schedule',
    help: "write as model/ the weights of the best evaluation instead of the last step's; no checkpoint is needed, the journal is replayed up to it",
    schema: z.boolean(),
    default: false,
  },
  metricForBestModel: {
    topic: 'schedule',
    value: 'name',
    help: 'figure of evaluations by which one is the best: loss, accuracy, f1, ... (default: loss)',
    schema: z.string().min(1),
  },
  greaterIsBetter: {
    topic: 'schedule',
    value: 'yes|no',
    help: 'whether more of it is better (default: no for perplexity and names that end in loss)',
    schema: yesNo,
  },
  earlyStoppingPatience: {
    topic: 'schedule',
    value: 'n',
    help: 'stop after n evaluations in a row without a better one',
    schema: count,
  },
  earlyStoppingThreshold: {
    topic: 'schedule',
    value: 'x',
    help: 'early stopping: a better one is better by more than x',
    schema: nonnegative,
    default: 0,
  },
} as const satisfies Record<string, OptionSpec>

export const EVALUATION_KEYS = Object.keys(
  EVALUATION_OPTIONS,
) as (keyof typeof EVALUATION_OPTIONS)[]

/** @throws UserError (usage) for options that ask something of evaluations that will not be made */
export function checkEvaluation(config: Readonly<Record<string, unknown>>): void {
  const refuse = (text: string) => {
    throw new UserError(text, { exitCode: 2 })
  }
  const { loadBestModelAtEnd, earlyStoppingPatience, earlyStoppingThreshold } = config
  const stops = earlyStoppingPatience !== undefined
  if (earlyStoppingThreshold !== 0 && !stops) {
    refuse('--early-stopping-threshold needs --early-stopping-patience beside it')
  }
  for (const name of ['metricForBestModel', 'greaterIsBetter'] as const) {
    if (config[name] === undefined || loadBestModelAtEnd || stops) continue
    refuse(
      `--${flagName(name)} needs --load-best-model-at-end or --early-stopping-patience beside it`,
    )
  }
  if (!loadBestModelAtEnd && !stops) return
  const flag = stops ? '--early-stopping-patience' : '--load-best-model-at-end'
  const { evalFile, task, dataset } = config
  if (evalFile === undefined && task === undefined && dataset === undefined) {
    refuse(`${flag} looks at evaluations: give --eval-file (or --task)`)
  }
  if (stops && config.evalSteps === 0) {
    refuse('--early-stopping-patience counts evaluations: give --eval-steps')
  }
}
