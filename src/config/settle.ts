// What Hugging Face's words for lengths and rhythms (epochs, shares, strategies) mean in steps, once the
// number of examples is known. Pure, so that a resumed run settles on the same.

import { UserError } from '../util/errors.ts'
import type { Config } from './options.ts'

/** Of saveStrategy steps without a number, as in Hugging Face. */
const SAVE_STEPS = 500

/**
 * The configuration with steps, warmupSteps, evalSteps and saveSteps as numbers.
 * @param stepsPerEpoch a fraction, where batches straddle epochs
 */
export function settled(config: Config, stepsPerEpoch: number): Config {
  const { numTrainEpochs, warmupRatio, saveStrategy, ...rest } = config
  const { evalStrategy, loggingSteps, ...others } = rest
  const steps =
    numTrainEpochs === undefined ? rest.steps : Math.ceil(numTrainEpochs * stepsPerEpoch)
  if (!Number.isSafeInteger(steps)) {
    throw new UserError(
      `--num-train-epochs ${numTrainEpochs} means more steps than can be counted`,
      {
        exitCode: 2,
      },
    )
  }
  const epoch = Math.max(1, Math.ceil(stepsPerEpoch))
  const every = (strategy: Config['evalStrategy'], given: number, usual: number) => {
    if (strategy === 'no') return 0
    if (strategy === 'epoch') return epoch
    return given === 0 && strategy === 'steps' ? usual : given
  }
  return {
    ...others,
    loggingSteps,
    // Without evaluations also at the start and the end; the others are numbers from here on.
    ...(evalStrategy === 'no' && { evalStrategy }),
    steps,
    warmupSteps: warmupRatio === undefined ? rest.warmupSteps : Math.ceil(warmupRatio * steps),
    evalSteps: every(evalStrategy, rest.evalSteps, loggingSteps),
    saveSteps: every(saveStrategy, rest.saveSteps, SAVE_STEPS),
  }
}
