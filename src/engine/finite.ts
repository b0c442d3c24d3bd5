// What is said of results that are no numbers. A training step skips them; whoever asks for a text or
// a figure gets this sentence instead.

import type { Engine } from './engine.ts'
import { UserError } from '../util/errors.ts'

/** The model's results are NaN or infinite. */
export class NotFiniteError extends UserError {}

/** The error about `what`, with its likely cause. */
export function notFinite({ options, updateCount }: Engine, what: string): NotFiniteError {
  const { checkpoint, activations } = options
  const after = updateCount > 0 ? ` after ${updateCount} updates` : ''
  const cause =
    activations === 'F16'
      ? `its activations may overflow float16 (try --activation-dtype float32), or its weights hold ` +
        `NaN or infinite numbers, as training that diverged leaves them`
      : `its weights hold NaN or infinite numbers, or such large ones that sums overflow, as ` +
        `training that diverged leaves them: take an earlier checkpoint`
  return new NotFiniteError(`${what} of ${checkpoint.dir}${after} are not finite; ${cause}`)
}
