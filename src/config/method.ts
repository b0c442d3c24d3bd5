// The options of methods: part of the table in options.ts, and which of them mean something to which
// method. An option that would do nothing is refused.

import { z } from 'zod'
import { UserError } from '../util/errors.ts'
import { ESTIMATORS } from '../methods/estimator.ts'
import { METHOD_NAMES } from '../methods/index.ts'
import { KRON_STRATEGIES } from '../methods/kron-sizes.ts'
import { count, flagName, list, nonnegative, positive, whole, type OptionSpec } from './values.ts'

export const METHOD_OPTIONS = {
  method: {
    topic: 'method',
    value: 'name',
    help: `zeroth-order method: ${METHOD_NAMES.join(', ')}`,
    schema: z.enum(METHOD_NAMES as [string, ...string[]]),
    default: 'mezo-sgd',
  },
  lr: {
    topic: 'method',
    value: 'x',
    help: 'learning rate',
    schema: nonnegative,
    default: 1e-6,
    aliases: ['learning-rate'],
  },
  eps: {
    topic: 'method',
    value: 'x',
    help: 'probe scale eps',
    schema: positive,
    default: 1e-3,
    aliases: ['zo-eps'],
  },
  adaptiveEps: {
    topic: 'method',
    help: 'let eps follow sqrt(lr) and the clearness of the loss difference (src/schedule.ts)',
    schema: z.boolean(),
    default: false,
  },
  weightDecay: {
    topic: 'method',
    value: 'x',
    help: 'decoupled weight decay; biases and norms do not decay',
    schema: nonnegative,
    default: 0,
  },
  seed: {
    topic: 'method',
    value: 'n',
    help: 'run seed: noise and data order',
    schema: whole,
    default: 0,
  },
  probes: {
    topic: 'method',
    value: 'q',
    help: 'directions per step, all in one batch, averaged',
    schema: count,
    default: 1,
  },
  estimator: {
    topic: 'method',
    value: 'kind',
    help: 'two-sided (q pairs), or one-sided (centre and q >= 2 probes, differences divided by the standard deviation of their losses, as FZOO)',
    schema: z.enum(ESTIMATORS),
    default: 'two-sided',
  },
  rank: {
    topic: 'method',
    value: 'r',
    help: 'lozo: rank of directions',
    schema: count,
    default: 2,
    aliases: ['rank-r'],
  },
  window: {
    topic: 'method',
    value: 'nu',
    help: 'lozo, kronzo: steps that share V (or B)',
    schema: count,
    default: 50,
    aliases: ['step-interval'],
  },
  momentum: {
    topic: 'method',
    value: 'beta',
    help: 'lozo-m, kronzo-m: momentum in the left factor',
    schema: nonnegative.refine((beta) => beta < 1, 'expected a number below 1'),
    default: 0.9,
    aliases: ['beta1'],
  },
  rankScaling: {
    topic: 'method',
    value: 'kind',
    help: "lozo: paper (updates times 1/r) or none (as the authors' code)",
    schema: z.enum(['paper', 'none']),
    default: 'paper',
  },
  kronStrategy: {
    topic: 'method',
    value: 'kind',
    help: `kronzo: how sizes are factored: ${KRON_STRATEGIES.join(', ')}`,
    schema: z.enum(KRON_STRATEGIES),
    default: 'approx_square',
  },
  kronMaxFactor: {
    topic: 'method',
    value: 'n',
    help: 'kronzo: largest factor of fixed_factor',
    schema: count,
    default: 32,
  },
  foldWindows: {
    topic: 'method',
    value: 'n',
    help: 'lozo, kronzo: windows kept as factors before they are folded into the overlay (default: 16/rank; kronzo 1)',
    schema: count,
  },
  replayWindow: {
    topic: 'method',
    value: 'K',
    help: 'mezo: updates replayed from their seeds before they are folded into the overlay; changes speed, and bits only with a float16 overlay',
    schema: count,
    default: 2,
  },
  overlayDtype: {
    topic: 'method',
    value: 'type',
    help: 'of folded weights: float32, or float16 rounded stochastically, which halves memory and traffic',
    schema: z.enum(['float32', 'float16']),
    default: 'float32',
  },
  trainOnly: {
    topic: 'method',
    value: 'globs',
    help: "train only tensors of these names, such as '*.self_attn.*,*.fc1.*'",
    schema: list,
  },
  freeze: {
    topic: 'method',
    value: 'globs',
    help: "leave tensors of these names as they are, such as '*embed*'",
    schema: list,
  },
  layersPerStep: {
    topic: 'method',
    value: 'n',
    help: 'perturb and update n randomly drawn blocks per step (LeZO), and what is outside of blocks',
    schema: count,
  },
  loraRank: {
    topic: 'method',
    value: 'r',
    help: 'train LoRA matrices of this rank instead of the weights (mezo-sgd)',
    schema: count,
  },
  loraAlpha: {
    topic: 'method',
    value: 'x',
    help: 'LoRA scaling is alpha/r',
    schema: positive,
    default: 16,
  },
  loraTargets: {
    topic: 'method',
    value: 'names',
    help: 'modules that get LoRA matrices',
    schema: list,
    default: ['q_proj', 'v_proj'],
  },
  prefixTokens: {
    topic: 'method',
    value: 'n',
    help: 'train n key-value pairs in front of every sequence, in each layer, instead of the weights (mezo-sgd)',
    schema: count,
    aliases: ['num-prefix'],
  },
} as const satisfies Record<string, OptionSpec>

/** A resumed or exported run must have the same of all of these. */
export const METHOD_KEYS = Object.keys(METHOD_OPTIONS) as (keyof typeof METHOD_OPTIONS)[]

const LOZO = ['lozo', 'lozo-m']
const KRONZO = ['kronzo', 'kronzo-m']
const ONLY: Readonly<Record<string, readonly string[]>> = {
  rank: LOZO,
  rankScaling: LOZO,
  window: [...LOZO, ...KRONZO],
  foldWindows: [...LOZO, ...KRONZO],
  momentum: ['lozo-m', 'kronzo-m'],
  kronStrategy: KRONZO,
  kronMaxFactor: KRONZO,
  replayWindow: ['mezo-sgd'],
}

/** @throws UserError (usage) for an option that this method has no use for */
export function checkMethod(config: Readonly<Record<string, unknown>>): void {
  const method = String(config.method)
  const refuse = (text: string) => {
    throw new UserError(text, { exitCode: 2 })
  }
  for (const [name, methods] of Object.entries(ONLY)) {
    const spec: OptionSpec = METHOD_OPTIONS[name as keyof typeof METHOD_OPTIONS]
    if (config[name] === spec.default || methods.includes(method)) continue
    refuse(
      `--${flagName(name)} is for ${methods.join(', ')}; found --method ${method}: leave it out`,
    )
  }
  if (config.estimator === 'one-sided' && (config.probes as number) < 2) {
    refuse('--estimator one-sided needs --probes of at least 2: it divides by their spread')
  }
  if (config.loraRank !== undefined && method !== 'mezo-sgd') {
    refuse(`--lora-rank trains LoRA matrices by mezo-sgd; found --method ${method}`)
  }
  if (config.loraRank !== undefined && config.overlayDtype === 'float16') {
    refuse('--overlay-dtype is of folded weights, and --lora-rank folds none: leave one out')
  }
  if (config.prefixTokens !== undefined) checkPrefix(config, refuse)
  for (const name of ['loraAlpha', 'loraTargets'] as const) {
    const changed = JSON.stringify(config[name]) !== JSON.stringify(METHOD_OPTIONS[name].default)
    if (changed && config.loraRank === undefined) {
      refuse(`--${flagName(name)} needs --lora-rank`)
    }
  }
  if (config.kronMaxFactor !== METHOD_OPTIONS.kronMaxFactor.default) {
    if (config.kronStrategy !== 'fixed_factor') {
      refuse('--kron-max-factor is for --kron-strategy fixed_factor: leave it out')
    }
  }
}

/** Only the prefix trains: dense, never folded, without decay. */
function checkPrefix(config: Readonly<Record<string, unknown>>, refuse: (text: string) => void) {
  if (config.method !== 'mezo-sgd') {
    refuse(`--prefix-tokens trains a prefix by mezo-sgd; found --method ${String(config.method)}`)
  }
  if (config.loraRank !== undefined) refuse('give either --prefix-tokens or --lora-rank')
  for (const name of ['trainOnly', 'freeze', 'weightDecay', 'replayWindow', 'overlayDtype']) {
    const spec: OptionSpec | undefined = METHOD_OPTIONS[name as keyof typeof METHOD_OPTIONS]
    if (config[name] === spec.default) continue
    refuse(`--${flagName(name)} is of weights, and --prefix-tokens trains none: leave one out`)
  }
}
