// The one training loop, around step.ts: data order, schedule, evaluation, metrics, checkpoints,
// callbacks, signals, resume. Everything that decides a step is a pure function of (config, step), so
// that a resumed run is the run that was not interrupted.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Config } from '../config/options.ts'
import type { PackedBatch } from '../data/packing.ts'
import type { Engine } from '../engine/engine.ts'
import type { LoadedModel } from '../engine/load.ts'
import { writeTrained } from '../export/result.ts'
import { openRunRecords, type RunRecords } from '../records/run-records.ts'
import { bestOf, criterionOf, withoutImprovement } from '../run/best.ts'
import { evaluationsIn, pruneCheckpoints, savedCheckpoints } from '../run/folder.ts'
import { meanLoss, type Journal, type JournalEntry } from '../run/journal.ts'
import type { Reporter } from '../util/console.ts'
import { UserError } from '../util/errors.ts'
import {
  keepState,
  type EventDetails,
  type Notify,
  type StateKeeper,
  type TrainerControl,
  type TrainerEvent,
} from './callbacks.ts'
import { evaluationLine, type Evaluation } from './evaluate.ts'
import type { Objective } from './objective.ts'
import { createProgress, type StepFigures } from './progress.ts'
import { createEpsRule, lrAt } from './schedule.ts'
import type { DataSource } from './source.ts'
import { zoStep } from './step.ts'

interface TrainInput {
  readonly engine: Engine
  readonly config: Config
  readonly journal: Journal
  readonly source: DataSource
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

/** The loop's own state, beside what it was given. */
interface Loop extends TrainInput {
  readonly records: RunRecords
  readonly control: TrainerControl
  readonly keeper: StateKeeper
  readonly evaluations: ({ step: number } & Evaluation)[]
}

/** Runs steps from the journal's end to config.steps, or until stopped. */
export async function train(input: TrainInput): Promise<TrainResult> {
  const { dir, engine, config, journal, source } = input
  const { tensorboard, steps: maxSteps } = config
  const globalStep = journal.entries.length
  const records = await openRunRecords(dir, engine.device, { steps: globalStep, tensorboard })
  try {
    const loop: Loop = {
      ...input,
      records,
      control: {
        shouldTrainingStop: false,
        shouldEvaluate: false,
        shouldSave: false,
        shouldLog: false,
      },
      keeper: keepState({
        globalStep,
        maxSteps,
        stepsPerEpoch: source.stepsPerEpoch,
        evaluations: await evaluationsIn(dir),
        criterion: criterionOf(config),
      }),
      evaluations: [],
    }
    await untilStopped(input.stop, () => runSteps(loop, globalStep))
    await tell(loop, 'onTrainEnd')
    return resultOf(loop)
  } finally {
    await records.close()
  }
}

async function runSteps(loop: Loop, first: number): Promise<void> {
  const { engine, config, journal, source, control, keeper, stop } = loop
  const progress = createProgress(engine, config, loop.records, loop.report)
  const eps = createEpsRule(config)
  journal.entries.forEach((entry) => eps.push(entry))

  await tell(loop, 'onTrainBegin')
  if (saveIsDue(loop, first)) await save(loop, first) // a kill may have come just before
  if (evaluationIsDue(loop, first)) await evaluate(loop, first)
  for (let step = first; step < config.steps; step++) {
    if (stop.aborted || control.shouldTrainingStop) break
    const batches = await source.batchesOf(step)
    await tell(loop, 'onStepBegin', { batches: givenOf(batches) })
    const before = { ...engine.counters }
    const started = performance.now()
    const entry = await zoStep(engine, {
      batches,
      objective: loop.objective,
      step,
      lr: lrAt(step, config),
      eps: eps.at(step),
      weightDecay: config.weightDecay,
      append: (line) => journal.append(line),
    })
    eps.push(entry)
    const stepMs = performance.now() - started
    const figures = await progress.record({ entry, batches, stepMs, before })
    keeper.stepped(step + 1)
    await afterStep(loop, { entry, batches, figures }, progress.show)
  }
}

/** The batches as a program's callbacks know them: those that it gave. */
const givenOf = (batches: readonly PackedBatch[]) => batches.flatMap(({ given }) => given ?? [])

/** A step that was made, and what is known of it. */
interface Made {
  readonly entry: JournalEntry
  readonly batches: readonly PackedBatch[]
  readonly figures: StepFigures
}

/** Callbacks, the progress line, and the checkpoint and evaluation that are due after a step. */
async function afterStep(
  loop: Loop,
  { entry, batches, figures }: Made,
  show: (figures: StepFigures, forGood: boolean) => void,
): Promise<void> {
  const { config, control, keeper } = loop
  const done = entry.step + 1
  control.shouldLog = done % config.loggingSteps === 0 || done === config.steps || done === 1
  control.shouldSave = saveIsDue(loop, done)
  control.shouldEvaluate = evaluationIsDue(loop, done)
  await tell(loop, 'onStepEnd', { batches: givenOf(batches), entry })
  show(figures, control.shouldLog || entry.skipped === true)
  if (control.shouldLog) {
    const logs = logOf(figures, keeper.state.epoch)
    keeper.logged(logs)
    await tell(loop, 'onLog', { logs })
  }
  checkSkipped(loop, entry)
  if (control.shouldSave) await save(loop, done)
  if (control.shouldEvaluate) await evaluate(loop, done)
  if (control.shouldSave) await save(loop, done) // onEvaluate asked for it
}

const tell = async (loop: Loop, event: TrainerEvent, details: EventDetails = {}) =>
  loop.notify?.(event, loop.keeper.state, loop.control, details)

const saveIsDue = ({ config: { saveSteps } }: Loop, step: number) =>
  saveSteps > 0 && step > 0 && step % saveSteps === 0

function evaluationIsDue({ config, source }: Loop, step: number): boolean {
  const { evalOnStart, evalSteps, steps, evalStrategy } = config
  if (!source.evaluate || evalStrategy === 'no') return false
  if (step === 0) return evalOnStart
  return step === steps || (evalSteps > 0 && step % evalSteps === 0)
}

async function evaluate(loop: Loop, step: number): Promise<void> {
  const { source, control, keeper, engine, config, report, records, stop } = loop
  if (!source.evaluate) return
  const result = await source.evaluate(engine, (done, total) => {
    stop.throwIfAborted()
    report.live(`evaluating ${done}/${total}`)
  })
  const label = `eval step ${String(step).padStart(String(config.steps).length)}`
  report.line(source.line?.(step, result) ?? evaluationLine(label, result))
  await records.evaluation({ step, ...result })
  loop.evaluations.push({ step, ...result })
  const figures = Object.entries({ ...result }).filter(([, value]) => value !== undefined)
  const metrics = Object.fromEntries(figures.map(([name, value]) => [`eval_${name}`, value]))
  keeper.evaluated({ ...Object.fromEntries(figures), step })
  keeper.logged({ ...metrics, step })
  await tell(loop, 'onEvaluate', { metrics })
  if (tooLongWorse(loop)) control.shouldTrainingStop = true
}

async function save(loop: Loop, step: number): Promise<void> {
  loop.control.shouldSave = false
  if ((await savedCheckpoints(loop.dir)).some((saved) => saved.step === step)) return
  await tell(loop, 'onSave', { checkpointDir: await saveCheckpoint(loop, step) })
}

/** A folder that transformers loads, and from which a resume need not replay the steps before. */
async function saveCheckpoint(loop: Loop, step: number): Promise<string> {
  const { engine, config, base, dir, report, stop } = loop
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

/** What a log says of a step, in the words of metrics.jsonl. */
function logOf(figures: StepFigures, epoch: number): Record<string, number> {
  const { loss, projected_grad, lr, eps, step, step_ms, tokens } = figures
  const rest = { projected_grad, lr, eps, step_ms, tokens, epoch, step: step + 1 }
  return loss === null ? rest : { loss, ...rest }
}

/** Early stopping. */
function tooLongWorse({ config, report, keeper }: Loop): boolean {
  const { earlyStoppingPatience: patience, earlyStoppingThreshold: threshold } = config
  if (patience === undefined) return false
  const criterion = criterionOf(config)
  const { evaluations } = keeper.state
  if (withoutImprovement(evaluations, criterion, threshold) < patience) return false
  const best = bestOf(evaluations, criterion)
  report.line(
    `stopping early: ${patience} evaluation${patience === 1 ? '' : 's'} without a better ${criterion.metric} than ${best ? `${best.value.toFixed(4)} at step ${best.step}` : 'none'}`,
  )
  return true
}

function checkSkipped({ config, journal, report, dir }: Loop, entry: JournalEntry): void {
  if (!entry.skipped) return
  report.line(`warning: the loss of step ${entry.step + 1} is not finite; the step is skipped`)
  const recent = journal.entries.slice(-config.maxSkipped)
  if (recent.length === config.maxSkipped && recent.every((e) => e.skipped)) {
    throw new UserError(
      `${config.maxSkipped} losses in a row were not finite, so the run stops with its state intact in ${dir}; start another with a lower --lr or --eps, or give --resume and a higher --max-skipped`,
    )
  }
}

/** What `work` gives; null if a signal ended it, which is no error. */
export async function untilStopped<T>(
  stop: AbortSignal,
  work: () => Promise<T>,
): Promise<T | null> {
  try {
    return await work()
  } catch (error) {
    if (stop.aborted && error === stop.reason) return null
    throw error
  }
}

function resultOf({ config, journal, keeper, control, evaluations, stop }: Loop): TrainResult {
  const best = bestOf(keeper.state.evaluations, criterionOf(config))
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
