// `zo2 finetune` from configuration to summary: claims the output folder, loads model and data,
// opens device and engine, trains, writes model/. Each thing opened is closed, also on an error.

import { dirname, join, resolve } from 'node:path'
import { exportAdapter } from './adapter.ts'
import type { Config } from './config.ts'
import { loadExamples } from './data/examples.ts'
import { randomExamples, wordless } from './data/random-tokens.ts'
import type { Example, Tokenizer } from './data/types.ts'
import type { Engine } from './engine.ts'
import { UserError } from './errors.ts'
import { scoreExamples } from './evaluate-answers.ts'
import type { Evaluation } from './evaluate.ts'
import { fileHash, fingerprint } from './fingerprint.ts'
import { exportModel } from './export.ts'
import { openJournal, replay, type Journal } from './journal.ts'
import { lockRun } from './lock.ts'
import { dataTokenizer } from './model-tokenizer.ts'
import { memoryTable, type Reporter } from './report.ts'
import {
  appendLine,
  claimRunFolder,
  discard,
  makeRunFolder,
  mendMetrics,
  recordRun,
  savedCheckpoints,
  settleCheckpoints,
} from './run-folder.ts'
import { DTYPES, loadModel, methodOf, openEngine, type LoadedModel } from './setup.ts'
import { aimOf, examplesHash, taskData, type Aim } from './task-data.ts'
import { evaluationLine, train, untilStopped, type TrainResult } from './trainer.ts'
import { formatBytes } from './units.ts'
import { VERSION } from './version.ts'
import { openCheckpoint } from './weights/checkpoint.ts'
import { isSynthetic } from './weights/synthetic.ts'
import type { Checkpoint } from './weights/types.ts'

export interface FinetuneSummary extends TrainResult {
  readonly outputDir: string
  /** Of a task's evaluation examples after training; null if there are none or the run was stopped. */
  readonly evaluation: Evaluation | null
  /** The exported model, or null if it was not asked for or the run was stopped. */
  readonly modelDir: string | null
  readonly devicePeakBytes: number
  readonly plannedPeakBytes: number
  /** Largest resident set of the process so far. */
  readonly rssPeakBytes: number
}

/** Runs or resumes a fine-tuning run. UserError for everything a user can mend. */
export async function finetune(
  source: string,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<FinetuneSummary> {
  const dir = resolve(required(config.outputDir, '--output-dir'))
  if (isSynthetic(source)) refuseData(config)
  else if (config.task === undefined) required(config.train, '--train (or --task)')
  report.line(`zo2 ${VERSION}  ${source}  ${config.method}`)
  await makeRunFolder(dir)
  const unlock = await lockRun(dir)
  try {
    const before = await claimRunFolder(dir, config.resume)
    // A branch of the hub may have moved on since the run began.
    const revision = config.revision ?? before?.commit ?? undefined
    const loaded = await loadModel(source, { ...config, ...(revision && { revision }) }, report)
    const data = await loadData(loaded, config, report, stop)
    await recordRun(dir, before, {
      zo2: VERSION,
      model: source,
      commit: loaded.commit,
      fingerprint: await fingerprint(loaded.checkpoint),
      train_sha256: data.sha256,
      config,
    })
    const journal = await openJournal(join(dir, 'journal.jsonl'))
    try {
      const done = journal.entries.length
      await mendMetrics(dir, journal.entries)
      await settleCheckpoints(dir, done, config.saveTotalLimit)
      if (before) report.line(`resuming at step ${done} of ${config.steps}`)
      return await runIn(dir, loaded, config, journal, data, report, stop)
    } finally {
      await journal.close()
    }
  } finally {
    await unlock()
  }
}

interface Data {
  readonly tokenizer: Tokenizer
  readonly train: readonly Example[]
  readonly aim: Aim
  readonly held: readonly Example[]
  /** A task's evaluation examples, scored once at the end. */
  readonly test: readonly Example[]
  /** Of the training data. */
  readonly sha256: string
}

async function runIn(
  dir: string,
  loaded: LoadedModel,
  config: Config,
  journal: Journal,
  data: Data,
  report: Reporter,
  stop: AbortSignal,
): Promise<FinetuneSummary> {
  const updates = replay(journal.entries, config.weightDecay)
  const { method, estimator } = methodOf(config, loaded.model)
  // Factored methods fold at fixed steps only: they are replayed from the base, which is cheap.
  const start = method.structure === 'dense' ? await newestCheckpoint(dir, journal) : null
  const { engine, device, close } = await openEngine(loaded, config, {
    updates,
    folded: start?.updates ?? 0,
    trains: true,
    scratchDir: dir,
    ...(start ? { checkpoint: start.checkpoint } : {}),
  })
  try {
    report.line(`device ${device.info.kind}: ${device.info.name} (${device.info.detail})`)
    const probes = estimator.probes(config.eps).length
    const set = engine.workingSet({ probes, ...largestBatch(config, data) })
    report.line(describePlan(engine))
    memoryTable(set.plan.bytes).forEach((row) => report.line(row))
    const layout = loaded.checkpoint
    const result = await train({ engine, config, journal, ...data, layout, dir, report, stop })
    const evaluation = result.stopped
      ? null
      : await scoreTest(engine, config, data, dir, report, stop)
    const modelDir = join(dir, 'model')
    const write = () => writeModel(engine, loaded.source, layout, modelDir, config, report, stop)
    const finished = !result.stopped && config.saveModel && (await untilStopped(stop, write))
    return {
      ...result,
      stopped: stop.aborted,
      evaluation,
      outputDir: dir,
      modelDir: finished ? modelDir : null,
      devicePeakBytes: device.ledger.peak().totalBytes,
      plannedPeakBytes: set.plan.peakBytes,
      rssPeakBytes: process.resourceUsage().maxRSS * 1024,
    }
  } finally {
    await close()
  }
}

/** Sequences and tokens of the largest batch that training or evaluation will see. */
function largestBatch(config: Config, { train, held, test, aim }: Data) {
  const longest = (e: Example) => {
    const rows = [e, ...(e.options ?? []), ...(e.calibration ?? [])]
    const generated = e.generation ? e.generation.prompt.length + config.maxNewTokens : 0
    return Math.max(generated, ...rows.map((s) => s.inputIds.length))
  }
  const tokens = [...train, ...held, ...test].reduce((most, e) => Math.max(most, longest(e)), 0)
  const options = train.reduce((most, e) => Math.max(most, e.options?.length ?? 1), 1)
  return { batch: config.batchSize * (aim.options ? options : 1), tokens }
}

/** Scores a task's evaluation examples, as MeZO does after training. */
async function scoreTest(
  engine: Engine,
  config: Config,
  { test, tokenizer }: Data,
  dir: string,
  report: Reporter,
  stop: AbortSignal,
): Promise<Evaluation | null> {
  if (test.length === 0) return null
  let evaluation: Evaluation | null = null
  await untilStopped(stop, async () => {
    evaluation = await scoreExamples(engine, test, {
      ...{ batchSize: config.batchSize, padId: tokenizer.padId, padTo: config.padding, tokenizer },
      maxNewTokens: config.maxNewTokens,
      onProgress: (done, total) => {
        stop.throwIfAborted()
        report.live(`scoring ${done}/${total}`)
      },
    })
    report.line(evaluationLine(`${config.task} evaluation`, evaluation))
    await appendLine(join(dir, 'evals.jsonl'), { step: config.steps, split: 'eval', ...evaluation })
  })
  return evaluation
}

function describePlan(engine: Engine): string {
  const { plan } = engine.workingSet({ probes: 1, batch: 1, tokens: 1 })
  const streamed = plan.slabs.length - plan.residentSlabs
  const ring = plan.slots > 0 ? `, ${plan.slots} slots of ${formatBytes(plan.slotBytes)}` : ''
  return `plan: ${plan.slabs.length} slabs, ${plan.residentSlabs} resident, ${streamed} streamed${ring}`
}

async function loadData(
  loaded: LoadedModel,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<Data> {
  if (isSynthetic(loaded.source)) return randomData(loaded, config)
  const tokenizer = await dataTokenizer(loaded, config)
  const some = (held: readonly Example[]) =>
    config.evalSamples > 0 ? held.slice(0, config.evalSamples) : held
  if (config.task !== undefined) {
    const { train, dev, eval: test } = await taskData(loaded, config, tokenizer, report, stop)
    const aim = aimOf(config, train, tokenizer)
    return { tokenizer, train, aim, held: some(dev), test: some(test), sha256: examplesHash(train) }
  }
  const read = async (path: string) => {
    const set = await loadExamples(path, tokenizer, {
      template: config.template,
      labelWords: config.labelWords,
      maxLength: config.maxLength,
      maxPositions: loaded.model.maxPositions,
      textColumn: config.textColumn,
      labelColumn: config.labelColumn,
    })
    report.line(`data ${path}: ${set.examples.length} examples (${set.kind})`)
    set.log.forEach((line) => report.line(line))
    return set.examples
  }
  const train = await read(config.train!)
  const held = config.evalFile === undefined ? [] : some(await read(config.evalFile))
  const aim = aimOf(config, train, tokenizer)
  return { tokenizer, train, aim, held, test: [], sha256: await fileHash(config.train!) }
}

/** Batches that a random run does not repeat. */
const RANDOM_BATCHES = 64

/** Full sequences of random tokens: a synthetic model knows no words. */
function randomData({ model }: LoadedModel, config: Config): Data {
  const { batchSize, maxLength, seed } = config
  const [tokens, vocab] = [Math.min(maxLength, model.maxPositions), model.vocabSize]
  const train = randomExamples(RANDOM_BATCHES * batchSize, tokens, vocab, seed)
  const tokenizer = wordless(vocab, 1)
  const aim = aimOf(config, train, tokenizer)
  return { tokenizer, train, aim, held: [], test: [], sha256: examplesHash(train) }
}

function refuseData(config: Config): void {
  for (const [flag, value] of [
    ['--train', config.train],
    ['--eval-file', config.evalFile],
    ['--task', config.task],
  ]) {
    if (value === undefined) continue
    throw new UserError(
      `${flag} needs a tokenizer, which a synthetic model has not: it trains on random tokens; leave it out`,
      { exitCode: 2 },
    )
  }
}

/** The newest saved checkpoint: resuming replays only what follows it. */
async function newestCheckpoint(dir: string, journal: Journal) {
  const [newest] = await savedCheckpoints(dir)
  if (!newest) return null
  const contained = journal.entries.slice(0, newest.step).filter((entry) => !entry.skipped)
  return { checkpoint: await openCheckpoint(newest.dir), updates: contained.length }
}

async function writeModel(
  engine: Engine,
  source: string,
  layout: Checkpoint,
  modelDir: string,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
) {
  await discard(modelDir) // of an earlier, shorter run in this folder
  await exportModel(engine, modelDir, {
    dtype: DTYPES[config.dtype],
    layout,
    onProgress: (done, total) => {
      stop.throwIfAborted()
      report.live(`writing model/ ${((100 * done) / total).toFixed(0)} %`)
    },
  })
  report.line(`wrote ${modelDir}`)
  if (!engine.state.lora) return
  const adapterDir = join(dirname(modelDir), 'adapter')
  await discard(adapterDir)
  await exportAdapter(engine, adapterDir, source)
  report.line(`wrote ${adapterDir} (LoRA, for peft)`)
}

function required(value: string | undefined, flag: string): string {
  if (value === undefined) throw new UserError(`${flag} is required`, { exitCode: 2 })
  return value
}
