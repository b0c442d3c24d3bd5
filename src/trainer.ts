// A whole fine-tuning run around step.ts: data order, schedule, evaluation, metrics, checkpoints,
// signals, resume. Everything that decides a step is a pure function of (config, step), so that a
// resumed run is the run that was not interrupted.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Config } from './config.ts'
import { batchTokens, collateExamples } from './data/batches.ts'
import { indicesForStep } from './data/order.ts'
import type { Batch, Example, Tokenizer } from './data/types.ts'
import type { Engine } from './engine.ts'
import { UserError } from './errors.ts'
import { evaluateExamples, type Evaluation } from './evaluate.ts'
import { exportModel } from './export.ts'
import { meanLoss, type Journal, type JournalEntry } from './journal.ts'
import { openRunRecords, type RunRecords } from './records/run-records.ts'
import { progressLine, type Reporter } from './report.ts'
import { pruneCheckpoints, savedCheckpoints, stepMetrics } from './run-folder.ts'
import { createEpsRule, lrAt } from './schedule.ts'
import { zoStep } from './step.ts'
import type { Aim } from './task-data.ts'
import type { Checkpoint } from './weights/types.ts'

export interface TrainInput {
  readonly engine: Engine
  readonly config: Config
  readonly journal: Journal
  readonly tokenizer: Tokenizer
  readonly train: readonly Example[]
  /** What is optimised, and on which rows. */
  readonly aim: Aim
  /** Held-out examples; empty: no evaluation. */
  readonly held: readonly Example[]
  /** The base model's, which saved checkpoints are laid out as. */
  readonly layout: Checkpoint
  readonly dir: string
  readonly report: Reporter
  /** Aborted by a signal: the step under way is finished, then the run ends. */
  readonly stop: AbortSignal
}

export interface TrainResult {
  /** Steps in the journal. */
  readonly steps: number
  readonly stopped: boolean
  /** Evaluations by step; the first is before training (of this process). */
  readonly evaluations: readonly ({ step: number } & Evaluation)[]
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
  const { engine, config, journal, stop } = input
  const evaluations: ({ step: number } & Evaluation)[] = []
  const evaluate = async (step: number) => {
    if (input.held.length > 0) evaluations.push({ step, ...(await evaluateHeld(input, step)) })
  }
  const save = async (step: number) => {
    const due = config.saveSteps > 0 && step > 0 && step % config.saveSteps === 0
    const saved = due && (await savedCheckpoints(input.dir)).some((c) => c.step === step)
    if (due && !saved) await saveCheckpoint(input, step)
  }
  const pace = createPace(input)
  const eps = createEpsRule(config)
  journal.entries.forEach((entry) => eps.push(entry))
  await untilStopped(stop, async () => {
    await save(journal.entries.length) // a kill may have come just before
    await evaluate(journal.entries.length)
    for (let step = journal.entries.length; step < config.steps && !stop.aborted; step++) {
      const batches = batchesOfStep(input, step)
      const before = { ...engine.counters }
      const started = performance.now()
      const entry = await zoStep(engine, {
        batches,
        objective: input.aim.objective,
        step,
        lr: lrAt(step, config),
        eps: eps.at(step),
        weightDecay: config.weightDecay,
        append: (line) => journal.append(line),
      })
      eps.push(entry)
      await pace.record(entry, batches, performance.now() - started, before)
      checkSkipped(input, entry)
      const [done, last] = [step + 1, step + 1 === config.steps]
      await save(done)
      if (last || (config.evalSteps > 0 && done % config.evalSteps === 0)) await evaluate(done)
    }
  })
  return {
    steps: journal.entries.length,
    stopped: stop.aborted,
    evaluations,
    lastLoss: meanLoss(journal.entries.at(-1)),
  }
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

/** The micro-batches of a step: a pure function of seed and step. */
function batchesOfStep({ config, train, tokenizer, aim }: TrainInput, step: number): Batch[] {
  const { batchSize, accumulate, seed, padding } = config
  const indices = indicesForStep(step, batchSize * accumulate, train.length, seed)
  return Array.from({ length: accumulate }, (_, i) => {
    const part = indices.slice(i * batchSize, (i + 1) * batchSize).map((index) => train[index]!)
    return collateExamples(part, { padId: tokenizer.padId, padTo: padding }, aim)
  })
}

/** metrics.jsonl and the progress line. */
function createPace({ engine, config, records, report }: Recorded) {
  const recent: number[] = []
  return {
    async record(
      entry: JournalEntry,
      batches: readonly Batch[],
      stepMs: number,
      before: Engine['counters'],
    ) {
      const tokens = batches.reduce((sum, batch) => sum + batchTokens(batch), 0)
      const { counters, device } = engine
      const metrics = {
        ...stepMetrics(entry),
        tokens,
        step_ms: round(stepMs, 2),
        read_bytes: counters.readBytes - before.readBytes,
        upload_bytes: counters.uploadBytes - before.uploadBytes,
        download_bytes: 0,
        wait_ms: round(counters.waitMs - before.waitMs, 2),
        device_peak_bytes: device.ledger.peak().totalBytes,
        rss_bytes: process.memoryUsage.rss(),
      }
      await records.step(metrics)
      recent.push(stepMs)
      if (recent.length > 20) recent.shift()
      const done = entry.step + 1
      const left =
        ((config.steps - done) * recent.reduce((a, b) => a + b, 0)) / recent.length / 1000
      const text = progressLine({
        done,
        steps: config.steps,
        loss: metrics.loss,
        grad: entry.projected_grad,
        lr: entry.lr,
        stepMs,
        tokens,
        readBytes: metrics.read_bytes,
        deviceBytes: metrics.device_peak_bytes,
        leftSeconds: left,
      })
      const due = done % config.loggingSteps === 0 || done === config.steps || done === 1
      if (due || entry.skipped) report.line(text)
      else report.live(text)
    },
  }
}

async function evaluateHeld(input: Recorded, step: number): Promise<Evaluation> {
  const { engine, config, held, tokenizer, report, records, stop } = input
  const result = await evaluateExamples(engine, held, {
    batchSize: config.batchSize,
    padId: tokenizer.padId,
    padTo: config.padding,
    onProgress: (done, total) => {
      stop.throwIfAborted()
      report.live(`evaluating ${done}/${total}`)
    },
  })
  report.line(
    evaluationLine(`eval step ${String(step).padStart(String(config.steps).length)}`, result),
  )
  await records.evaluation({ step, ...result })
  return result
}

/** One aligned line for an evaluation. */
export function evaluationLine(label: string, e: Evaluation): string {
  const scores = { accuracy: e.accuracy, f1: e.f1, 'exact match': e.exact_match }
  const known = Object.entries(scores).filter(([, score]) => score !== undefined)
  const text = known.map(([name, score]) => `  ${name} ${score!.toFixed(4)}`).join('')
  return `${label}  loss ${e.loss.toFixed(4)}  perplexity ${e.perplexity.toFixed(2)}${text}  tokens ${e.tokens}`
}

/** A folder that transformers loads, and from which a resume need not replay the steps before. */
async function saveCheckpoint(input: TrainInput, step: number) {
  const { engine, config, layout, dir, report, stop } = input
  const path = join(dir, `checkpoint-${step}`)
  await exportModel(engine, path, {
    dtype: 'F32',
    layout,
    onProgress: () => stop.throwIfAborted(), // the journal is enough to resume
    extra: (folder) =>
      writeFile(join(folder, 'zo2.json'), JSON.stringify({ step, updates: engine.updateCount })),
  })
  await pruneCheckpoints(dir, config.saveTotalLimit)
  report.line(`saved ${path}`)
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

const round = (x: number, digits: number) => Math.round(x * 10 ** digits) / 10 ** digits
