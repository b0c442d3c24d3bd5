// The one training loop, around step.ts: data order, schedule, evaluation, metrics, checkpoints,
// callbacks, signals, resume. Everything that decides a step is a pure function of (config, step), so
// that a resumed run is the run that was not interrupted.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { bestOf, criterionOf, withoutImprovement, type Scored } from '../run/best.ts'
import { keepState, type EventDetails, type Notify, type TrainerEvent } from './callbacks.ts'
import type { Config } from '../config/options.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import type { Evaluation } from './evaluate.ts'
import type { Feed } from './feed.ts'
import { meanLoss, type Journal, type JournalEntry } from '../run/journal.ts'
import type { Objective } from './objective.ts'
import { createPace, type StepFigures } from './progress.ts'
import { openRunRecords, type RunRecords } from '../records/run-records.ts'
import type { Reporter } from '../util/console.ts'
import { evaluationsIn, pruneCheckpoints, savedCheckpoints } from '../run/folder.ts'
import { createEpsRule, lrAt } from './schedule.ts'
import { zoStep } from './step.ts'
import type { LoadedModel } from '../engine/open.ts'
import { writeTrained } from '../export/result.ts'

export interface TrainInput {
  readonly engine: Engine
  readonly config: Config
  readonly journal: Journal
  readonly feed: Feed
  /** What a step makes smaller. */
  readonly objective: Objective
  /** The base model, whose layout saved checkpoints have. */
  readonly base: LoadedModel
  readonly dir: string
  readonly report: Reporter
  /** Aborted by a signal: the step under way is finished, then the run ends. */
  readonly stop: AbortSignal
  /** Callbacks. */
  readonly notify?: Notify
}

export interface TrainResult {
  /** Steps in the journal. */
  readonly steps: number
  /** By a signal. */
  readonly stopped: boolean
  /** By early stopping or a callback, before config.steps. */
  readonly stoppedEarly: boolean
  /** Evaluations by step that this process made. */
  readonly evaluations: readonly ({ step: number } & Evaluation)[]
  /** The step of the best evaluation of the whole run; null if there is none. */
  readonly bestStep: number | null
  readonly bestMetric: number | null
  readonly lastLoss: number | null
}

/** Runs steps from the journal's end to config.steps, or until stopped. */
export async function train(input: TrainInput): Promise<TrainResult> {
  const { dir, engine, config, journal } = input
  const { tensorboard } = config
  const steps = journal.entries.length
  const records = await openRunRecords(dir, engine.device, { steps, tensorboard })
  try {
    return await trainOn({ ...input, records })
  } finally {
    await records.close()
  }
}

interface Recorded extends TrainInput {
  readonly records: RunRecords
}

async function trainOn(input: Recorded): Promise<TrainResult> {
  const { engine, config, journal, feed, stop, records, report } = input
  const criterion = criterionOf(config)
  const control = { shouldTrainingStop: false, shouldEvaluate: false, shouldSave: false, shouldLog: false } // prettier-ignore
  const { stepsPerEpoch } = feed
  const [globalStep, maxSteps] = [journal.entries.length, config.steps]
  const earlier = await evaluationsIn(input.dir)
  const keeper = keepState({ globalStep, maxSteps, stepsPerEpoch, evaluations: earlier, criterion })
  const { state } = keeper
  const tell = async (event: TrainerEvent, details: EventDetails = {}) =>
    input.notify?.(event, state, control, details)

  const evaluations: ({ step: number } & Evaluation)[] = []
  const evaluate = async (step: number) => {
    if (!feed.evaluate) return
    const result = await evaluateHeld(input, feed.evaluate, step)
    evaluations.push({ step, ...result })
    const metrics = named(result, (name) => `eval_${name}`)
    keeper.evaluated({ ...named(result, (name) => name), step })
    keeper.logged({ ...metrics, step })
    await tell('onEvaluate', { metrics })
    if (tooLongWorse(input, state.evaluations)) control.shouldTrainingStop = true
  }
  const save = async (step: number) => {
    control.shouldSave = false
    if ((await savedCheckpoints(input.dir)).some((c) => c.step === step)) return
    await tell('onSave', { checkpointDir: await saveCheckpoint(input, step) })
  }
  const saveIsDue = (step: number) =>
    config.saveSteps > 0 && step > 0 && step % config.saveSteps === 0
  const evaluationIsDue = (step: number) => {
    if (step === 0) return config.evalOnStart
    return step === config.steps || (config.evalSteps > 0 && step % config.evalSteps === 0)
  }
  const pace = createPace(engine, config, records, report)
  const eps = createEpsRule(config)
  journal.entries.forEach((entry) => eps.push(entry))

  await untilStopped(stop, async () => {
    await tell('onTrainBegin')
    if (saveIsDue(globalStep)) await save(globalStep) // a kill may have come just before
    if (evaluationIsDue(globalStep)) await evaluate(globalStep)
    for (let step = globalStep; step < config.steps; step++) {
      if (stop.aborted || control.shouldTrainingStop) break
      const batches = await feed.batchesOf(step)
      await tell('onStepBegin', { batches })
      const before = { ...engine.counters }
      const started = performance.now()
      const entry = await zoStep(engine, {
        batches,
        objective: input.objective,
        step,
        lr: lrAt(step, config),
        eps: eps.at(step),
        weightDecay: config.weightDecay,
        append: (line) => journal.append(line),
      })
      eps.push(entry)
      const stepMs = performance.now() - started
      const figures = await pace.record({ entry, batches, stepMs, before })
      const done = step + 1
      keeper.stepped(done)
      control.shouldLog = done % config.loggingSteps === 0 || done === config.steps || done === 1
      control.shouldSave = saveIsDue(done)
      control.shouldEvaluate = evaluationIsDue(done)
      await tell('onStepEnd', { batches, entry })
      pace.show(figures, control.shouldLog || entry.skipped === true)
      if (control.shouldLog) {
        const logs = logOf(figures, state.epoch)
        keeper.logged(logs)
        await tell('onLog', { logs })
      }
      checkSkipped(input, entry)
      if (control.shouldSave) await save(done)
      if (control.shouldEvaluate) await evaluate(done)
      if (control.shouldSave) await save(done) // onEvaluate asked for it
    }
  })
  await tell('onTrainEnd')
  const best = bestOf(state.evaluations, criterion)
  return {
    steps: journal.entries.length,
    stopped: stop.aborted,
    stoppedEarly: control.shouldTrainingStop && journal.entries.length < config.steps,
    evaluations,
    bestStep: best?.step ?? null,
    bestMetric: best?.value ?? null,
    lastLoss: meanLoss(journal.entries.at(-1)),
  }
}

/** The figures that are there, under new names. */
function named(result: Evaluation, name: (name: string) => string): Record<string, number> {
  const known = Object.entries({ ...result }).filter(([, value]) => value !== undefined)
  return Object.fromEntries(known.map(([key, value]) => [name(key), value as number]))
}

/** What a log says of a step, in the words of metrics.jsonl. */
function logOf(
  { loss, projected_grad, lr, eps, step, step_ms, tokens }: StepFigures,
  epoch: number,
) {
  return { ...(loss !== null && { loss }), projected_grad, lr, eps, step_ms, tokens, epoch, step: step + 1 } // prettier-ignore
}

/** Early stopping. */
function tooLongWorse({ config, report }: TrainInput, evaluations: readonly Scored[]): boolean {
  const { earlyStoppingPatience: patience, earlyStoppingThreshold: threshold } = config
  if (patience === undefined) return false
  const criterion = criterionOf(config)
  if (withoutImprovement(evaluations, criterion, threshold) < patience) return false
  const best = bestOf(evaluations, criterion)
  report.line(
    `stopping early: ${patience} evaluation${patience === 1 ? '' : 's'} without a better ${criterion.metric} than ${best ? `${best.value.toFixed(4)} at step ${best.step}` : 'none'}`,
  )
  return true
}

/** Runs `work`; false if a signal ended it, which is no error. */
export async function untilStopped(stop: AbortSignal, work: () => Promise<void>): Promise<boolean> {
  try {
    await work()
    return true
  } catch (error) {
    if (stop.aborted && error === stop.reason) return false
    throw error
  }
}

async function evaluateHeld(
  { config, feed, report, records, stop }: Recorded,
  evaluate: NonNullable<Feed['evaluate']>,
  step: number,
): Promise<Evaluation> {
  const result = await evaluate((done, total) => {
    stop.throwIfAborted()
    report.live(`evaluating ${done}/${total}`)
  })
  const label = `eval step ${String(step).padStart(String(config.steps).length)}`
  report.line(feed.line?.(step, result) ?? evaluationLine(label, result))
  await records.evaluation({ step, ...result })
  return result
}

/** One aligned line for an evaluation. */
export function evaluationLine(label: string, e: Evaluation): string {
  const { loss, perplexity, tokens, ...scores } = e
  const text = Object.entries(scores)
    .filter(([name, score]) => score !== undefined && name !== 'option_loss')
    .map(([name, score]) => `  ${name.replaceAll('_', ' ')} ${Number(score).toFixed(4)}`)
    .join('')
  return `${label}  loss ${loss.toFixed(4)}  perplexity ${perplexity.toFixed(2)}${text}  tokens ${tokens}`
}

/** A folder that transformers loads, and from which a resume need not replay the steps before. */
async function saveCheckpoint(input: TrainInput, step: number): Promise<string> {
  const { engine, config, base, dir, report, stop } = input
  const path = join(dir, `checkpoint-${step}`)
  await writeTrained(engine, path, base, {
    dtype: 'F32',
    onProgress: () => stop.throwIfAborted(), // the journal is enough to resume
    extra: (folder) =>
      writeFile(join(folder, 'zo2.json'), JSON.stringify({ step, updates: engine.updateCount })),
  })
  await pruneCheckpoints(dir, config.saveTotalLimit)
  report.line(`saved ${path}`)
  return path
}

function checkSkipped({ config, journal, report, dir }: TrainInput, entry: JournalEntry): void {
  if (!entry.skipped) return
  report.line(`warning: the loss of step ${entry.step + 1} is not finite; the step is skipped`)
  const recent = journal.entries.slice(-config.maxSkipped)
  if (recent.length === config.maxSkipped && recent.every((e) => e.skipped)) {
    throw new UserError(
      `${config.maxSkipped} losses in a row were not finite, so the run stops with its state intact in ${dir}; start another with a lower --lr or --eps, or give --resume and a higher --max-skipped`,
    )
  }
}
