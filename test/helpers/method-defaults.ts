// The method's options that tests take where they say nothing else. Apart from runs.ts, so that a test
// of a method alone loads no engine.

import type { MethodOptions } from '../../src/methods/method.ts'
import type { Selection } from '../../src/methods/selection.ts'

/** Every tensor trains at every step. */
export const EVERYTHING: Selection = { trains: () => true, active: () => true }

export const METHOD_DEFAULTS: MethodOptions = {
  seed: 5,
  noise: 'gaussian',
  selection: EVERYTHING,
  replayWindow: 4,
  directions: 1,
  rank: 2,
  window: 3,
  overlayDtype: 'float32',
  rankScaling: 'paper',
  kronStrategy: 'approx_square',
  kronMaxFactor: 32,
  momentum: 0.9,
}
