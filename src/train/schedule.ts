// Learning rate and eps as pure functions of the step and of the journal before it, so that resuming
// needs no state.

import type { Config } from '../config/options.ts'
import type { JournalEntry } from '../run/journal.ts'

type Schedule = Pick<Config, 'lr' | 'lrSchedule' | 'warmupSteps' | 'steps'> &
  Partial<Pick<Config, 'minLr' | 'lrDecaySteps'>>

/**
 * Learning rate of a 0-based step: linear warm-up, then constant, linear or cosine to minLr at
 * lrDecaySteps (`steps` if absent).
 */
export function lrAt(step: number, config: Schedule): number {
  const { lr, warmupSteps, minLr = 0, lrDecaySteps: end = config.steps } = config
  if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps
  if (config.lrSchedule === 'constant') return lr
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, end - warmupSteps))
  const share =
    config.lrSchedule === 'linear' ? 1 - progress : 0.5 * (1 + Math.cos(Math.PI * progress))
  return minLr + (lr - minLr) * share
}

/** Steps after which the factor s of adaptive eps may change. */
const EPS_WINDOW = 20
/** A loss difference is clear when it stands 32 times above f32's resolution of the loss. */
const CLEAR = 2 ** -18

interface EpsRule {
  /** eps of a 0-based step; every entry before it must have been pushed. */
  at(step: number): number
  push(entry: JournalEntry): void
}

/**
 * Adaptive eps: eps_t = eps * sqrt(lr_t/lr) * s, the root at least 0.1, s in [1/4, 4] and 1 at first.
 * After each window of 20 steps, from the share of them whose |loss+ - loss-| exceeds 2^-18 of the
 * loss: s grows by 1.25 below a share of 0.2 (differences drown in rounding) and shrinks by 0.9 above
 * 0.8 (there is room for less bias). The rate's part does not compound: it is not fed back.
 */
export function createEpsRule(config: Schedule & Pick<Config, 'eps' | 'adaptiveEps'>): EpsRule {
  let s = 1
  let seen: boolean[] = []
  return {
    at(step) {
      if (!config.adaptiveEps) return config.eps
      const root = config.lr === 0 ? 1 : Math.sqrt(lrAt(step, config) / config.lr)
      return config.eps * Math.max(0.1, root) * s
    },
    push({ loss_plus, loss_minus }) {
      if (loss_plus === null || loss_minus === null) return
      seen.push(Math.abs(loss_plus - loss_minus) > CLEAR * Math.abs(loss_plus))
      if (seen.length < EPS_WINDOW) return
      const share = seen.filter(Boolean).length / EPS_WINDOW
      if (share < 0.2) s = Math.min(4, s * 1.25)
      if (share > 0.8) s = Math.max(0.25, s * 0.9)
      seen = []
    },
  }
}
