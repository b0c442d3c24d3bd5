// The learning rate as a pure function of the step, so that resuming needs no state.

import type { Config } from './config.ts'

/** Learning rate of a 0-based step: linear warm-up, then constant, linear or cosine to 0 at `steps`. */
export function lrAt(
  step: number,
  config: Pick<Config, 'lr' | 'lrSchedule' | 'warmupSteps' | 'steps'>,
): number {
  const { lr, warmupSteps, steps } = config
  if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps
  if (config.lrSchedule === 'constant') return lr
  const progress = (step - warmupSteps) / Math.max(1, steps - warmupSteps)
  if (config.lrSchedule === 'linear') return lr * Math.max(0, 1 - progress)
  return lr * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, progress)))
}
