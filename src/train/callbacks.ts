// Callbacks of a run, in the names and meanings of Hugging Face's TrainerCallback: what they are given,
// what they may request, and early stopping. When they are called is loop.ts's matter.

import {
  bestOf,
  criterionOf,
  withoutImprovement,
  type Criterion,
  type CriterionOptions,
  type Scored,
} from '../run/best.ts'
import type { Batch } from '../data/types.ts'
import { UserError } from '../util/errors.ts'
import type { JournalEntry } from '../run/journal.ts'

/** Where a run is. Its fields change as the run goes on. */
export interface TrainerState {
  /** Steps made, those of earlier processes included. */
  readonly globalStep: number
  readonly maxSteps: number
  /** Epochs gone through, with a fraction. */
  readonly epoch: number
  /** The best evaluation so far, by metricForBestModel; null before the first. */
  readonly bestMetric: number | null
  readonly bestGlobalStep: number | null
  /** Evaluations of the whole run, figures without the prefix eval_. */
  readonly evaluations: readonly Scored[]
  /** What onLog and onEvaluate were given in this process. */
  readonly logHistory: readonly Readonly<Record<string, number>>[]
}

/** What a callback may ask for: it sets a flag. All but the first are for the step just made. */
export interface TrainerControl {
  shouldTrainingStop: boolean
  shouldEvaluate: boolean
  shouldSave: boolean
  shouldLog: boolean
}

/** What an event is about; absent where it means nothing. */
export interface EventDetails {
  /** onStepBegin, onStepEnd: the micro-batches. */
  readonly batches?: readonly Batch[]
  /** onStepEnd: the line of journal.jsonl. */
  readonly entry?: JournalEntry
  /** onLog: figures of the step. */
  readonly logs?: Readonly<Record<string, number>>
  /** onEvaluate: eval_loss, eval_accuracy, ... */
  readonly metrics?: Readonly<Record<string, number>>
  /** onSave: the folder. */
  readonly checkpointDir?: string
}

export type Listener<Args> = (
  args: Args,
  state: TrainerState,
  control: TrainerControl,
  details: EventDetails,
) => void | Promise<void>

/** Any of these; a promise is waited for. An error ends the run, which can be resumed. */
export interface TrainerCallback<Args = unknown> {
  onTrainBegin?: Listener<Args>
  /** Before the step's forward pass. */
  onStepBegin?: Listener<Args>
  /** After the step is in the journal and in the weights. */
  onStepEnd?: Listener<Args>
  onLog?: Listener<Args>
  onEvaluate?: Listener<Args>
  onSave?: Listener<Args>
  /** At the end, also of a run that a signal stopped; not after an error. */
  onTrainEnd?: Listener<Args>
}

export type TrainerEvent = keyof TrainerCallback

/** Passes an event to all listeners. */
export type Notify = (
  event: TrainerEvent,
  state: TrainerState,
  control: TrainerControl,
  details: EventDetails,
) => Promise<void>

/** Calls the callbacks in their order. */
export const notifier =
  <Args>(callbacks: readonly TrainerCallback<Args>[], args: Args): Notify =>
  async (event, state, control, details) => {
    for (const callback of callbacks) await callback[event]?.(args, state, control, details)
  }

/** Hooks around a step. */
export interface StepHooks {
  /** Before the forward pass of a 0-based step. */
  readonly beforeStep?: (step: number, batches: readonly Batch[]) => void | Promise<void>
  /** After it is in the weights. */
  readonly afterStep?: (entry: JournalEntry, batches: readonly Batch[]) => void | Promise<void>
}

/** The hooks as a callback. */
export const hooksCallback = ({ beforeStep, afterStep }: StepHooks): TrainerCallback => ({
  onStepBegin: (_args, state, _control, { batches }) => beforeStep?.(state.globalStep, batches!),
  onStepEnd: (_args, _state, _control, { entry, batches }) => afterStep?.(entry!, batches!),
})

/** Stops when that many evaluations in a row were not better than the best before them. */
export class EarlyStoppingCallback implements TrainerCallback<CriterionOptions> {
  readonly patience: number
  readonly threshold: number

  /** @throws UserError for a patience or threshold that is none */
  constructor({ earlyStoppingPatience = 1, earlyStoppingThreshold = 0 } = {}) {
    if (!Number.isSafeInteger(earlyStoppingPatience) || earlyStoppingPatience < 1) {
      throw new UserError(
        `earlyStoppingPatience: expected a whole number of at least 1, found ${earlyStoppingPatience}`,
      )
    }
    if (!(earlyStoppingThreshold >= 0)) {
      throw new UserError(
        `earlyStoppingThreshold: expected a number of at least 0, found ${earlyStoppingThreshold}`,
      )
    }
    this.patience = earlyStoppingPatience
    this.threshold = earlyStoppingThreshold
  }

  onEvaluate(args: CriterionOptions, state: TrainerState, control: TrainerControl): void {
    const worse = withoutImprovement(state.evaluations, criterionOf(args), this.threshold)
    if (worse >= this.patience) control.shouldTrainingStop = true
  }
}

/** The state of a run with what changes it; loop.ts alone holds this side. */
export interface StateKeeper {
  readonly state: TrainerState
  stepped(globalStep: number): void
  evaluated(evaluation: Scored): void
  logged(logs: Readonly<Record<string, number>>): void
}

/** A state after `globalStep` steps and the evaluations made so far. */
export function keepState(options: {
  readonly globalStep: number
  readonly maxSteps: number
  readonly stepsPerEpoch: number
  readonly evaluations: readonly Scored[]
  readonly criterion: Criterion
}): StateKeeper {
  const { maxSteps, stepsPerEpoch, criterion } = options
  let { globalStep } = options
  const evaluations = [...options.evaluations]
  const logHistory: Readonly<Record<string, number>>[] = []
  return {
    state: {
      maxSteps,
      evaluations,
      logHistory,
      get globalStep() {
        return globalStep
      },
      get epoch() {
        return globalStep / stepsPerEpoch
      },
      get bestMetric() {
        return bestOf(evaluations, criterion)?.value ?? null
      },
      get bestGlobalStep() {
        return bestOf(evaluations, criterion)?.step ?? null
      },
    },
    stepped: (step) => void (globalStep = step),
    evaluated: (evaluation) => void evaluations.push(evaluation),
    logged: (logs) => void logHistory.push(logs),
  }
}
