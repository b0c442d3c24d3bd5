// A run from configuration to summary: claims the output folder, loads model and data, opens device
// and engine, trains, writes model/. Each thing opened is closed, also on an error. `zo2 finetune` is
// a run on examples (finetune-data.ts), `zo2 pretrain` one on a prepared text (pretrain.ts).

import { join, resolve } from 'node:path'
import type { Plan } from '../../scheduler/plan.ts'
import { exportLora } from '../export/adapter.ts'
import type { Config } from '../config/options.ts'
import { partOf, passesOf, type Cut } from '../engine/cut.ts'
import type { Example } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { scoreExamples } from './evaluate-answers.ts'
import type { Evaluation } from './evaluate.ts'
import { checkData, loadData, required, type RunData } from './finetune-data.ts'
import { checkEvaluation } from '../config/evaluation.ts'
import { examplesFeed } from './feed.ts'
import type { Journal, JournalEntry } from '../run/journal.ts'
import { inRunFolder, keptStep, recordOf, stateAfter } from './open-run.ts'
import { memoryTable, type Reporter } from '../util/console.ts'
import { appendLine, discard } from '../run/folder.ts'
import { type RunRecord } from '../config/record.ts'
import { DTYPES, loadModel, methodOf, openEngine, type LoadedModel } from '../engine/open.ts'
import { writeTrained } from '../export/result.ts'
import { evaluationLine, train, untilStopped, type TrainResult } from './loop.ts'
import { formatBytes } from '../util/units.ts'
import { VERSION } from '../util/version.ts'
import { maxOf } from '../util/extremes.ts'

export interface FinetuneSummary extends TrainResult {
  readonly outputDir: string
  /** Of a task's evaluation examples after training; null if there are none or the run was stopped. */
  readonly evaluation: Evaluation | null
  /** The exported model (of prefix tuning the adapter), or null if it was not asked for or the run was stopped. */
  readonly modelDir: string | null
  /** Steps that its weights have seen: all, or those before the best evaluation. */
  readonly modelStep: number | null
  readonly devicePeakBytes: number
  readonly plannedPeakBytes: number
  /** Largest resident set of the process so far. */
  readonly rssPeakBytes: number
}

/** What a run trains: which weights, on what. */
export interface Job {
  /** Of the model to start from, for loadModel; `before` is the record of the run to resume. */
  source(before: RunRecord | null): string | Promise<string>
  data(loaded: LoadedModel): Promise<RunData>
}

/** Runs or resumes a fine-tuning run. UserError for everything a user can mend. */
export async function finetune(
  source: string,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<FinetuneSummary> {
  checkData(source, config)
  checkEvaluation({ ...config })
  report.line(`zo2 ${VERSION}  ${source}  ${config.method}`)
  const data = (loaded: LoadedModel) => loadData(loaded, config, report, stop)
  return runJob({ source: () => source, data }, config, report, stop)
}

/** Claims the output folder and runs or resumes a job in it. */
export async function runJob(
  job: Job,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<FinetuneSummary> {
  const dir = resolve(required(config.outputDir, '--output-dir'))
  const prepare = async (before: RunRecord | null) => {
    const source = await job.source(before)
    // A branch of the hub may have moved on since the run began.
    const revision = config.revision ?? before?.commit ?? undefined
    const loaded = await loadModel(source, { ...config, ...(revision && { revision }) }, report)
    const data = await job.data(loaded)
    return { loaded, data, record: await recordOf(loaded, data.sha256, config) }
  }
  return inRunFolder(dir, config, prepare, (journal, { loaded, data }, before) => {
    if (before) report.line(`resuming at step ${journal.entries.length} of ${config.steps}`)
    return runIn(dir, loaded, config, journal, data, report, stop)
  })
}

async function runIn(
  dir: string,
  loaded: LoadedModel,
  config: Config,
  journal: Journal,
  data: RunData,
  report: Reporter,
  stop: AbortSignal,
): Promise<FinetuneSummary> {
  const trained = await withEngineAfter(dir, loaded, config, journal.entries, async (engine) => {
    const { info, ledger } = engine.device
    report.line(`device ${info.kind}: ${info.name} (${info.detail})`)
    const probes = engine.options.estimator.probes(config.eps).length
    const largest = { probes, ...largestBatch(config, data) }
    const cut = engine.cut(largest)
    const { plan } = engine.workingSet(partOf(largest, cut))
    report.line(describePlan(plan, cut))
    memoryTable(plan.bytes).forEach((row) => report.line(row))
    const { aim, notify } = data
    const feed = data.feed?.(engine) ?? examplesFeed({ engine, config, ...data, ...aim })
    const watch = notify ? { notify: notify(engine) } : {}
    const base = loaded
    const result = await train({ engine, config, journal, feed, ...aim, ...watch, base, dir, report, stop }) // prettier-ignore
    const step = keptStep(config, result)
    const last = step === result.steps ? await finish(engine, step) : null
    const peaks = { device: ledger.peak().totalBytes, planned: engine.plannedPeakBytes }
    return { result, step, last, peaks }
  })
  const { result, step, peaks } = trained
  const end = trained.last ?? (await withEngineAfter(dir, loaded, config, journal.entries.slice(0, step), (engine) => finish(engine, step))) // prettier-ignore
  return {
    ...result,
    ...end,
    stopped: stop.aborted,
    outputDir: dir,
    modelStep: end.modelDir === null ? null : step,
    devicePeakBytes: peaks.device,
    plannedPeakBytes: peaks.planned,
    rssPeakBytes: process.resourceUsage().maxRSS * 1024,
  }

  /** What comes after training: the test and model/. Nothing, if a signal came. */
  async function finish(engine: Engine, step: number) {
    if (stop.aborted) return { evaluation: null, modelDir: null }
    const evaluation = await scoreTest(engine, config, data, step, dir, report, stop)
    const write = () => writeResult(engine, loaded, dir, config, report, stop)
    const written = config.saveModel && (await untilStopped(stop, write))
    return { evaluation, modelDir: written ? join(dir, resultOf(config)) : null }
  }
}

/** Opens an engine with the weights after `entries`, and closes it again. */
async function withEngineAfter<T>(
  dir: string,
  loaded: LoadedModel,
  config: Config,
  entries: readonly JournalEntry[],
  use: (engine: Engine) => Promise<T>,
): Promise<T> {
  const { method } = methodOf(config, loaded.model)
  const state = await stateAfter(dir, entries, config, method)
  const { engine, close } = await openEngine(loaded, config, { ...state, trains: true, scratchDir: dir }) // prettier-ignore
  try {
    return await use(engine)
  } finally {
    await close()
  }
}

/** Sequences and tokens of the largest batch that training or evaluation will see. */
function largestBatch(config: Config, { train, held, test, aim, feed }: RunData) {
  if (feed) return { batch: config.batchSize, tokens: config.maxLength }
  const longest = (e: Example) => {
    const rows = [e, ...(e.options ?? []), ...(e.calibration ?? [])]
    const generated = e.generation ? e.generation.prompt.length + config.maxNewTokens : 0
    return maxOf(
      rows.map((s) => s.inputIds.length),
      generated,
    )
  }
  const tokens = [...train, ...held, ...test].reduce((most, e) => Math.max(most, longest(e)), 0)
  const options = train.reduce((most, e) => Math.max(most, e.options?.length ?? 1), 1)
  return { batch: config.batchSize * (aim.options ? options : 1), tokens }
}

/** Scores a task's evaluation examples, as MeZO does after training. */
async function scoreTest(
  engine: Engine,
  config: Config,
  { test, tokenizer }: RunData,
  step: number,
  dir: string,
  report: Reporter,
  stop: AbortSignal,
): Promise<Evaluation | null> {
  if (test.length === 0) return null
  let evaluation: Evaluation | null = null
  await untilStopped(stop, async () => {
    evaluation = await scoreExamples(engine, test, {
      ...{
        batchSize: config.evalBatchSize ?? config.batchSize,
        padId: tokenizer.padId,
        padTo: config.padding,
        tokenizer,
      },
      maxNewTokens: config.maxNewTokens,
      onProgress: (done, total) => {
        stop.throwIfAborted()
        report.live(`scoring ${done}/${total}`)
      },
    })
    report.line(evaluationLine(`${config.task} evaluation`, evaluation))
    await appendLine(join(dir, 'evals.jsonl'), { step, split: 'eval', ...evaluation })
  })
  return evaluation
}

function describePlan(plan: Plan, cut: Cut): string {
  const streamed = plan.slabs.length - plan.residentSlabs
  const ring = plan.slots > 0 ? `, ${plan.slots} slots of ${formatBytes(plan.slotBytes)}` : ''
  const passes = cut.passes > 1 ? `, ${passesOf(cut)}` : ''
  return `plan: ${plan.slabs.length} slabs, ${plan.residentSlabs} resident, ${streamed} streamed${ring}${passes}`
}

/** Folder of what a run writes at its end: a prefix has no place in a model folder. */
const resultOf = ({ prefixTokens }: Config) => (prefixTokens === undefined ? 'model' : 'adapter')

/** Writes model/, adapter/, or of LoRA both. */
async function writeResult(
  engine: Engine,
  loaded: LoadedModel,
  dir: string,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
) {
  const resultDir = join(dir, resultOf(config))
  await discard(resultDir) // of an earlier, shorter run in this folder
  await writeTrained(engine, resultDir, loaded, {
    dtype: DTYPES[config.dtype],
    onProgress: (done, total) => {
      stop.throwIfAborted()
      report.live(`writing model/ ${((100 * done) / total).toFixed(0)} %`)
    },
  })
  report.line(`wrote ${resultDir}${config.prefixTokens === undefined ? '' : ' (prefix, for peft)'}`)
  if (!engine.state.lora) return
  const adapterDir = join(dir, 'adapter')
  await discard(adapterDir)
  await exportLora(engine, adapterDir, loaded.source)
  report.line(`wrote ${adapterDir} (LoRA, for peft)`)
}
