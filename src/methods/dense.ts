// The state of dense methods: theta_t = theta_k + the updates owed since the last fold, as a list of
// (step, gradients). They are replayed from their seeds at every upload, and folded K at a time.

import type { NoiseTerm } from '../noise/distributions.ts'
import type { Demand, Fold, MethodOptions, TrainingState, Update } from './method.ts'
import { recipe, terms } from './perturbation.ts'

/** State of a method with dense directions. */
export function startDense(options: MethodOptions): TrainingState {
  const { noise, replayWindow } = options
  let owed: Update[] = []
  const termsOf = (name: string, updates: readonly Update[]): NoiseTerm[] =>
    updates.flatMap((update) => terms(options, name, update, true))
  const overdue = (spare: number): Fold | null => {
    if (owed.length < replayWindow + spare) return null
    const folded = owed
    owed = []
    return (name) => ({ kind: 'dense', noise, terms: termsOf(name, folded) })
  }
  return {
    // K at a time, also when a journal is replayed, where folds round. Else all at once is faster.
    begin: () => (options.overlayDtype === 'float16' ? overdue(0) : null),
    overdue,
    push(update) {
      owed.push(update)
    },
    isPerturbed: options.selection.active,
    change: (name) => ({ kind: 'dense', noise, terms: termsOf(name, owed) }),
    recipe: (name, probes) => recipe(options, name, termsOf(name, owed), probes),
    addend: () => null,
    rows: (name, probes) => ({
      kind: 'dense',
      recipe: recipe(options, name, termsOf(name, owed), probes),
    }),
  }
}

/** What dense directions ask of a device: a version of the weights for each probe. */
export const denseDemand = ({ replayWindow, directions }: MethodOptions): Demand => ({
  versions: (probes) => probes,
  terms: replayWindow * directions,
  projectionCols: 0,
  addendElements: 0,
  hostBytes: 0,
})
