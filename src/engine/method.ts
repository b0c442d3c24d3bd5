// Method, estimator and selection that a configuration means for a model, and whether its runs fold.

import type { Model } from '../../models/model.ts'
import type { Config } from '../config/options.ts'
import { createEstimator } from '../methods/estimator.ts'
import { createMethod } from '../methods/index.ts'
import { isTarget, loraMethod, loraSelection } from '../methods/lora.ts'
import { createSelection, globs } from '../methods/selection.ts'
import { UserError } from '../util/errors.ts'
import { listing } from '../util/untrusted.ts'
import { prefixSelection } from './prefix.ts'

/** Method, estimator and selection of a configuration. */
export function methodOf(config: Config, model: Model) {
  const { seed, trainOnly, freeze, layersPerStep } = config
  const all = createSelection({ seed, layers: model.layers, trainOnly, freeze, layersPerStep })
  const lora = loraOf(config, model)
  const selection = lora ? loraSelection(all) : model.prefixTokens ? prefixSelection(all) : all
  const names = [...model.tables, ...model.matrices, ...model.vectors].map(({ name }) => name)
  const trained = lora ? names.filter((name) => isTarget(name, lora.targets)) : names
  const whole = lora ? '--lora-targets' : 'this model'
  checkPatterns('--train-only', trainOnly, trained, whole)
  checkPatterns('--freeze', freeze, trained, whole)
  if (!trained.some((name) => all.trains(name))) {
    throw new UserError(
      `--train-only ${trainOnly?.join() ?? '*'} and --freeze ${freeze?.join() ?? ''} leave no tensor of this model to train; "zo2 inspect" lists their names`,
    )
  }
  if (layersPerStep !== undefined && layersPerStep > model.layers) {
    throw new UserError(
      `--layers-per-step ${layersPerStep}: this model has ${model.layers} layers; expected at most that`,
    )
  }
  return {
    method: lora ? loraMethod(lora) : createMethod(config.method),
    estimator: createEstimator(config.estimator, config.directions),
    methodOptions: { ...config, selection },
  }
}

/** UserError for a pattern without a tensor: it would do nothing, and a slip would go unseen. */
function checkPatterns(
  flag: string,
  patterns: readonly string[] = [],
  names: readonly string[],
  whole: string,
) {
  const idle = patterns.find((pattern) => !names.some(globs([pattern])))
  if (idle === undefined) return
  throw new UserError(
    `${flag} ${idle}: no tensor of ${whole} has such a name; its names are ${listing(names)}`,
  )
}

/** LoRA's options, if it is asked for. UserError if a target names no matrix of the model. */
function loraOf({ loraRank: rank, loraAlpha, loraTargets }: Config, model: Model) {
  if (rank === undefined) return null
  const tables = new Set(model.tables.map(({ name }) => name))
  const names = model.matrices.map(({ name }) => name).filter((name) => !tables.has(name))
  for (const target of loraTargets) {
    if (names.some((name) => isTarget(name, [target]))) continue
    const known = new Set(names.map((name) => name.split('.').at(-2)))
    throw new UserError(
      `--lora-targets ${target}: no such linear module in this model; it has ${[...known].join(', ')}`,
    )
  }
  return { rank, alpha: loraAlpha, targets: loraTargets }
}
