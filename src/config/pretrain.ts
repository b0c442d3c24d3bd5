// The options of `zo2 pretrain`: part of the table in options.ts, under nanoGPT's names. Which of them
// go together is checked here: an option that would do nothing is refused.

import { z } from 'zod'
import { UserError } from '../util/errors.ts'
import { count, flagName, nonnegative, path, yesNo, type OptionSpec } from './values.ts'

export const PRETRAIN_OPTIONS = {
  dataset: {
    topic: 'data',
    value: 'dir',
    help: 'folder of zo2 prepare; a bare name means data/NAME, as in nanoGPT',
    schema: path,
  },
  initFrom: {
    topic: 'data',
    value: 'source',
    help: "scratch, resume, gpt2 (gpt2-medium, ...), a model folder or hub id, or nanoGPT's ckpt.pt (default: scratch)",
    schema: path,
  },
  nLayer: {
    topic: 'data',
    value: 'n',
    help: 'scratch: blocks (default: 12)',
    schema: count,
  },
  nHead: {
    topic: 'data',
    value: 'n',
    help: 'scratch: attention heads (default: 12)',
    schema: count,
  },
  nEmbd: {
    topic: 'data',
    value: 'n',
    help: 'scratch: hidden size, a multiple of the heads (default: 768)',
    schema: count,
  },
  bias: {
    topic: 'data',
    value: 'yes|no',
    help: 'scratch: biases in linears and norms (default: no)',
    schema: yesNo,
  },
  dropout: {
    topic: 'data',
    value: 'x',
    help: '0 is all there is: the probes of a step must see the same network',
    schema: z.preprocess(
      (value) => (typeof value === 'string' && value.trim() ? Number(value) : value),
      z.literal(0, 'expected 0: the two probes of a step differ in their direction alone, which dropout would drown'), // prettier-ignore
    ),
  },
  evalIters: {
    topic: 'schedule',
    value: 'n',
    help: 'batches of train.bin and of val.bin in an evaluation, the same ones every time',
    schema: count,
    default: 200,
  },
  alwaysSaveCheckpoint: {
    topic: 'output',
    value: 'yes|no',
    help: 'ckpt-<step>/ after every evaluation, not only when val.bin has its lowest loss so far',
    schema: yesNo,
    default: false,
  },
} as const satisfies Record<string, OptionSpec>

/** nanoGPT's names of the rate's decay; they serve every run. */
export const DECAY_OPTIONS = {
  decayLr: {
    topic: 'schedule',
    value: 'yes|no',
    help: "nanoGPT's name for --lr-schedule cosine (yes) or constant (no)",
    schema: yesNo,
  },
  minLr: {
    topic: 'schedule',
    value: 'x',
    help: 'rate that the decay ends at',
    schema: nonnegative,
    default: 0,
  },
  lrDecaySteps: {
    topic: 'schedule',
    value: 'n',
    help: 'steps until the decay ends (default: --steps)',
    schema: count,
    aliases: ['lr-decay-iters'],
  },
} as const satisfies Record<string, OptionSpec>

/** A resumed run must have the same of these; the weights it began with are told by their fingerprint. */
export const PRETRAIN_TRAJECTORY = ['dropout', 'minLr', 'lrDecaySteps'] as const

/** Options about examples, which a prepared data set has none of. */
const EXAMPLES_ONLY = {
  ...{ train: undefined, evalFile: undefined, task: undefined, template: undefined },
  ...{ labelWords: undefined, textColumn: undefined, labelColumn: undefined, evalSamples: 0 },
  evalBatchSize: undefined,
  ...{ trainAsClassification: false, objective: 'loss', mezoCompat: false, padding: 'right' },
}

/**
 * Resolves decayLr into lrSchedule.
 * @throws UserError (usage) for options that contradict each other, or would do nothing
 */
export function checkPretrain(config: Record<string, unknown>): void {
  const flag = (name: string) => `--${flagName(name)}`
  const refuse = (text: string) => {
    throw new UserError(text, { exitCode: 2 })
  }
  if (config.decayLr !== undefined) {
    const kind = config.decayLr ? 'cosine' : 'constant'
    if (config.lrSchedule !== 'constant' && config.lrSchedule !== kind) {
      refuse(`--decay-lr means --lr-schedule ${kind}; found ${String(config.lrSchedule)}: give one`)
    }
    config.lrSchedule = kind
    delete config.decayLr
  }
  if (config.dataset === undefined) {
    for (const [name, spec] of Object.entries(PRETRAIN_OPTIONS) as [string, OptionSpec][]) {
      if (config[name] === spec.default) continue
      refuse(`${flag(name)} is for zo2 pretrain, which needs --dataset beside it`)
    }
    return
  }
  for (const [name, usual] of Object.entries(EXAMPLES_ONLY)) {
    if (config[name] === usual) continue
    refuse(`--dataset is a prepared text without examples; found ${flag(name)}: leave it out`)
  }
}
