// THE RUN DRIVER: one run in one folder, from its first line to its last, for `zo2 finetune`, `zo2 pretrain`
// and ZOTrainer alike. Claims the folder, writes the record, opens journal and engine, trains (loop.ts),
// scores the test examples and writes model/. What is opened here is closed here, also on an error.
// Which model and which data is the caller's matter (finetune.ts, pretrain.ts, src/api/trainer.ts).

import { join, resolve } from 'node:path'
import type { Plan } from '../../scheduler/plan.ts'
import type { Config } from '../config/options.ts'
import { isSynthetic } from '../checkpoint/synthetic.ts'
import { recordedOptions, type RunRecord } from '../config/record.ts'
import { settled } from '../config/settle.ts'
import type { Command } from '../config/spec.ts'
import { packTexts } from '../data/packing.ts'
import { passesOf, type Split } from '../engine/split.ts'
import type { Engine } from '../engine/engine.ts'
import type { LoadedModel } from '../engine/load.ts'
import { openedLines, openEngine, type EngineState, type OpenEngine } from '../engine/open.ts'
import { exportLora } from '../export/adapter.ts'
import { writeTrained } from '../export/result.ts'
import { lockRun } from '../run/lock.ts'
import { fingerprint } from '../run/fingerprint.ts'
import {
  appendLine,
  claimRunFolder,
  discard,
  makeRunFolder,
  mendMetrics,
  recordRun,
  settleCheckpoints,
} from '../run/folder.ts'
import { meanLoss, openJournal, readJournal, type Journal } from '../run/journal.ts'
import { memoryTable, type Reporter } from '../util/console.ts'
import { DTYPES } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import { formatBytes } from '../util/units.ts'
import { VERSION } from '../util/version.ts'
import type { Notify } from './callbacks.ts'
import { evaluationLine, type Evaluation } from './evaluate.ts'
import { train, untilStopped, type TrainResult } from './loop.ts'
import type { Objective } from './objective.ts'
import type { DataSource } from './source.ts'
import { stateAfter } from './state.ts'

/** A run's folder, locked for this process. */
interface ClaimedRun {
  readonly dir: string
  /** Of the run to continue; null for a new one. */
  readonly before: RunRecord | null
  release(): Promise<void>
}

/** What is trained, and on what. */
export interface RunSetup {
  readonly command: Extract<Command, 'finetune' | 'pretrain' | 'ZOTrainer'>
  readonly loaded: LoadedModel
  readonly source: DataSource
  /** What a step makes smaller. */
  readonly objective: Objective
  /** Listens to the run. */
  readonly listen?: (engine: Engine) => Notify
  /** Opens the engine; by default on a device of its own. */
  readonly open?: (config: Config, state: EngineState) => Promise<OpenEngine>
}

export interface RunSummary extends TrainResult {
  readonly outputDir: string
  /** Mean loss over all steps of the run that were not skipped; null if there are none. */
  readonly trainingLoss: number | null
  /** Of the test examples after training; null if there are none or the run was stopped. */
  readonly evaluation: Evaluation | null
  /** The exported model (of prefix tuning the adapter), or null if it was not asked for or the run was stopped. */
  readonly modelDir: string | null
  /** Steps that the weights have seen at the end: all, or those before the best evaluation. */
  readonly modelStep: number
  readonly devicePeakBytes: number
  readonly plannedPeakBytes: number
  /** Largest resident set of the process so far. */
  readonly rssPeakBytes: number
}

/**
 * Locks the output folder and decides whether a run may begin or go on there.
 * @throws UserError if another run is there, or files of one that is not whole
 */
export async function claimRun(
  outputDir: string,
  { resume }: Pick<Config, 'resume'>,
): Promise<ClaimedRun> {
  const dir = resolve(outputDir)
  await makeRunFolder(dir)
  const release = await lockRun(dir)
  try {
    return { dir, before: await claimRunFolder(dir, resume), release }
  } catch (error) {
    await release()
    throw error
  }
}

/** The hub's revision to take: of a run that goes on, the commit that it began with. */
export const pinned = <C extends Pick<Config, 'revision'>>(
  config: C,
  before: RunRecord | null,
): C => {
  const revision = config.revision ?? before?.commit ?? undefined
  return revision === undefined ? config : { ...config, revision }
}

/**
 * Runs or resumes the run in a claimed folder.
 * @throws UserError if it was run on something else before, and for everything a user can mend
 */
export async function runTraining(
  { dir, before }: ClaimedRun,
  setup: RunSetup,
  given: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<RunSummary> {
  const { loaded, source, command } = setup
  const config = settled(given, source.stepsPerEpoch)
  // A journal that cannot be gone on with leaves the record as it is.
  if (before) await readJournal(join(dir, 'journal.jsonl'))
  await recordRun(dir, before, {
    zo2: VERSION,
    model: placeOf(loaded),
    commit: loaded.commit,
    fingerprint: await fingerprint(loaded.checkpoint),
    train_sha256: source.sha256,
    config: recordedOptions(config, command),
  })
  const journal = await openJournal(join(dir, 'journal.jsonl'))
  try {
    await mendMetrics(dir, journal.entries)
    await settleCheckpoints(dir, journal.entries.length, config.saveTotalLimit)
    if (before) report.line(`resuming at step ${journal.entries.length} of ${config.steps}`)
    return await trainAndFinish({ ...setup, dir, config, journal, report, stop })
  } finally {
    await journal.close()
  }
}

/** Where the base model is found again from any folder: a hub id, or an absolute path. */
const placeOf = ({ source, commit }: LoadedModel): string =>
  commit !== null || isSynthetic(source) ? source : resolve(source)

/** A run under way. */
interface Running extends RunSetup {
  readonly dir: string
  readonly config: Config
  readonly journal: Journal
  readonly report: Reporter
  readonly stop: AbortSignal
}

async function trainAndFinish(run: Running): Promise<RunSummary> {
  const { dir, config, journal, loaded, source, objective, report, stop } = run
  let open = await engineAfter(run, journal.entries.length)
  try {
    const { engine, device } = open
    openedLines(open, config).forEach((line) => report.line(line))
    showPlan(run, engine)
    const notify = run.listen?.(engine)
    const result = await train({
      engine,
      config,
      journal,
      source,
      objective,
      ...(notify && { notify }),
      base: loaded,
      dir,
      report,
      stop,
    })
    const [devicePeakBytes, plannedPeakBytes] = [
      device.ledger.peak().totalBytes,
      engine.plannedPeakBytes,
    ]
    const modelStep = keptStep(config, result)
    if (modelStep < result.steps) {
      await open.close()
      open = await engineAfter(run, modelStep)
    }
    const losses = journal.entries.map(meanLoss).filter((loss) => loss !== null)
    return {
      ...result,
      ...(await finish(run, open.engine, modelStep)),
      stopped: stop.aborted,
      outputDir: dir,
      trainingLoss: losses.length > 0 ? losses.reduce((a, b) => a + b) / losses.length : null,
      modelStep,
      devicePeakBytes,
      plannedPeakBytes,
      rssPeakBytes: process.resourceUsage().maxRSS * 1024,
    }
  } finally {
    await open.close()
  }
}

/** Opens an engine with the weights after the first `steps` steps. */
async function engineAfter(run: Running, steps: number): Promise<OpenEngine> {
  const { dir, config, journal, loaded, report } = run
  const entries = journal.entries.slice(0, steps)
  const state = {
    ...(await stateAfter(dir, entries, config, loaded, report)),
    trains: true,
    scratchDir: dir,
    prefixDir: dir,
  }
  return run.open ? run.open(config, state) : openEngine(loaded, config, state)
}

/** The step whose weights a run ends with: the last, or the best if that is asked for. */
const keptStep = (config: Config, { stopped, bestStep, steps }: TrainResult): number =>
  config.loadBestModelAtEnd && !stopped && bestStep !== null ? bestStep : steps

/** Slabs, passes and device bytes of the largest batch, before the first step. */
function showPlan({ source: { largest }, config, report }: Running, engine: Engine): void {
  if (!largest) return
  const { shape, texts } = largest(config.steps)
  const probes = engine.options.estimator.probes(config.eps).length
  const split = engine.split(packTexts(texts), probes)
  const { plan } = engine.workingSet(split.passes > 1 ? split.shape : { ...shape, probes })
  report.line(describePlan(plan, split))
  memoryTable(plan.bytes).forEach((row) => report.line(row))
}

function describePlan(plan: Plan, split: Split): string {
  const streamed = plan.slabs.length - plan.residentSlabs
  const ring = plan.slots > 0 ? `, ${plan.slots} slots of ${formatBytes(plan.slotBytes)}` : ''
  const passes = split.passes > 1 ? `, ${passesOf(split)}` : ''
  return `plan: ${plan.slabs.length} slabs, ${plan.residentSlabs} resident, ${streamed} streamed${ring}${passes}`
}

/** What comes after training: the test and model/. Nothing, if a signal came. */
async function finish(run: Running, engine: Engine, step: number) {
  const nothing = { evaluation: null, modelDir: null }
  if (run.stop.aborted) return nothing
  const evaluation = await untilStopped(run.stop, () => scoreTest(run, engine, step))
  const writes = run.config.saveModel && run.command !== 'ZOTrainer'
  const modelDir = writes ? await untilStopped(run.stop, () => writeResult(run, engine)) : null
  return { evaluation, modelDir }
}

/** Scores a task's evaluation examples, as MeZO does after training. */
async function scoreTest(
  { source: { test }, dir, report, stop }: Running,
  engine: Engine,
  step: number,
): Promise<Evaluation | null> {
  if (!test) return null
  const evaluation = await test.evaluate(engine, (done, total) => {
    stop.throwIfAborted()
    report.live(`scoring ${done}/${total}`)
  })
  report.line(evaluationLine(`${test.name} evaluation`, evaluation))
  await appendLine(join(dir, 'evals.jsonl'), { step, split: 'eval', ...evaluation })
  return evaluation
}

/** Writes model/, adapter/ (a prefix has no place in a model folder), or of LoRA both. */
async function writeResult(
  { loaded, dir, config, report, stop }: Running,
  engine: Engine,
): Promise<string> {
  const isPrefix = config.prefixTokens !== undefined
  const resultDir = join(dir, isPrefix ? 'adapter' : 'model')
  await discard(resultDir) // of an earlier, shorter run in this folder
  await writeTrained(engine, resultDir, loaded, {
    dtype: DTYPES[config.dtype],
    onProgress: (done, total) => {
      stop.throwIfAborted()
      report.live(`writing model/ ${((100 * done) / total).toFixed(0)} %`)
    },
  })
  report.line(`wrote ${resultDir}${isPrefix ? ' (prefix, for peft)' : ''}`)
  if (!engine.state.lora) return resultDir
  const adapterDir = join(dir, 'adapter')
  await discard(adapterDir)
  await exportLora(engine, adapterDir, loaded.source)
  report.line(`wrote ${adapterDir} (LoRA, for peft)`)
  return resultDir
}

/**
 * An option that a run cannot do without.
 * @throws UserError (usage) if it is absent
 */
export function required(value: string | undefined, flag: string): string {
  if (value === undefined) throw new UserError(`${flag} is required`, { exitCode: 2 })
  return value
}
