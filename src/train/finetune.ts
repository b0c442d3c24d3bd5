// `zo2 finetune`: a run (run.ts) on examples of files or of a task, or on random tokens for a synthetic
// model, which knows no words.

import { isSynthetic } from '../checkpoint/synthetic.ts'
import type { Config } from '../config/options.ts'
import { loadExamples } from '../data/examples.ts'
import { dataTokenizer } from '../data/model-tokenizer.ts'
import { batchesPerEpoch, byCount, bySize } from '../data/order.ts'
import { packExamples } from '../data/packing.ts'
import { randomExamples, wordless } from '../data/random-tokens.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import { loadModel, type LoadedModel } from '../engine/load.ts'
import { fileHash } from '../run/fingerprint.ts'
import type { Reporter } from '../util/console.ts'
import { UserError } from '../util/errors.ts'
import { VERSION } from '../util/version.ts'
import { evaluateExamples } from './evaluate.ts'
import { comparesOptions, objectiveOf, type Objective } from './objective.ts'
import { claimRun, pinned, required, runTraining, type RunSummary } from './run.ts'
import { largestOf, microBatches, sized, type DataSource, type Evaluate } from './source.ts'
import { examplesHash, taskData } from './task.ts'

/** Runs or resumes a fine-tuning run. UserError for everything a user can mend. */
export async function finetune(
  model: string,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<RunSummary> {
  checkData(model, config)
  const outputDir = required(config.outputDir, '--output-dir')
  report.line(`zo2 ${VERSION}  ${model}  ${config.method}`)
  const run = await claimRun(outputDir, config)
  try {
    const loaded = await loadModel(model, pinned(config, run.before), report)
    const { source, objective } = await examplesOf(loaded, config, report, stop)
    const setup = { command: 'finetune', loaded, source, objective } as const
    return await runTraining(run, setup, config, report, stop)
  } finally {
    await run.release()
  }
}

/** @throws UserError (usage) if the options name no data, or data that this model cannot use */
function checkData(model: string, config: Config): void {
  if (!isSynthetic(model)) {
    if (config.task === undefined) required(config.train, '--train (or --task)')
    return
  }
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

/** The examples of a run. */
interface Examples {
  readonly tokenizer: Tokenizer
  readonly train: readonly Example[]
  /** Evaluated as the run goes on. */
  readonly held: readonly Example[]
  /** A task's evaluation examples, scored once at the end. */
  readonly test: readonly Example[]
  readonly sha256: string
}

async function examplesOf(
  loaded: LoadedModel,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<{ source: DataSource; objective: Objective }> {
  const examples = await loadData(loaded, config, report, stop)
  checkObjective(config, examples.train)
  return {
    source: examplesSource(config, examples),
    objective: objectiveOf(config, examples.tokenizer),
  }
}

/** Training, held-out and test examples as the options say. */
async function loadData(
  loaded: LoadedModel,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<Examples> {
  if (isSynthetic(loaded.source)) return randomData(loaded, config)
  const tokenizer = await dataTokenizer(loaded, config)
  const some = (held: readonly Example[]) =>
    config.evalSamples > 0 ? held.slice(0, config.evalSamples) : held
  if (config.task !== undefined) {
    const { train, dev, eval: test } = await taskData(loaded, config, tokenizer, report, stop)
    return { tokenizer, train, held: some(dev), test: some(test), sha256: examplesHash(train) }
  }
  const read = async (path: string) => {
    const set = await fileExamples(path, loaded, config, tokenizer)
    report.line(`data ${path}: ${set.examples.length} examples (${set.kind})`)
    set.log.forEach((line) => report.line(line))
    return set.examples
  }
  const train = await read(config.train!)
  const held = config.evalFile === undefined ? [] : some(await read(config.evalFile))
  return { tokenizer, train, held, test: [], sha256: await fileHash(config.train!) }
}

/** The examples of a file, read as the options say. */
export const fileExamples = (
  path: string,
  { model }: Pick<LoadedModel, 'model'>,
  config: Config,
  tokenizer: Tokenizer,
) =>
  loadExamples(path, tokenizer, {
    template: config.template,
    labelWords: config.labelWords,
    maxLength: config.maxLength,
    maxPositions: model.maxPositions,
    textColumn: config.textColumn,
    labelColumn: config.labelColumn,
    lossOn: config.lossOn,
  })

/** Batches that a random run does not repeat. */
const RANDOM_BATCHES = 64

/** Full sequences of random tokens. */
function randomData({ model }: LoadedModel, config: Config): Examples {
  const { batchSize, maxLength, seed } = config
  const [tokens, vocab] = [Math.min(maxLength, model.maxPositions), model.vocabSize]
  const train = randomExamples(RANDOM_BATCHES * batchSize, tokens, vocab, seed)
  return { tokenizer: wordless(vocab, 1), train, held: [], test: [], sha256: examplesHash(train) }
}

/** @throws UserError (usage) where the training examples cannot serve the objective */
function checkObjective(config: Config, train: readonly Example[]): void {
  const { objective, trainAsClassification, task } = config
  const data = task === undefined ? (config.train ?? 'the data') : `--task ${task}`
  const need = (has: boolean, flag: string, what: string) => {
    if (has) return
    throw new UserError(`${flag} needs examples with ${what}; ${data} has none`, { exitCode: 2 })
  }
  if (objective === 'f1') {
    const generates = train.every((example) => example.generation)
    need(generates, '--objective f1', 'answers to generate')
  } else if (comparesOptions(config)) {
    const flag = trainAsClassification ? '--train-as-classification' : '--objective accuracy'
    const have = train.every((example) => example.options)
    need(have, flag, 'options')
  }
}

/** Examples as the source of a run. */
function examplesSource(config: Config, examples: Examples): DataSource {
  const { tokenizer, train, held, test, sha256 } = examples
  const options = comparesOptions(config)
  const texts = sized(train, (example) => (options ? example.options! : [example]))
  const { batchSize, batchTokens, seed } = config
  const rows = texts.shapes.map((shape) => shape.rows)
  const order =
    batchTokens === undefined
      ? byCount(train.length, batchSize, seed)
      : bySize(rows, batchTokens, seed)
  const evaluate =
    (list: readonly Example[]): Evaluate =>
    (engine, onProgress) =>
      evaluateExamples(engine, list, {
        answers: {
          tokenizer: () => Promise.resolve(tokenizer),
          maxNewTokens: config.maxNewTokens,
        },
        onProgress,
      })
  return {
    sha256,
    stepsPerEpoch: batchesPerEpoch(order, train.length) / config.accumulate,
    largest: (steps) => largestOf(texts, order, steps, config),
    batchesOf: (step) =>
      microBatches(train, order, step, config, (items) => packExamples(items, { options })),
    evaluate: held.length > 0 ? evaluate(held) : null,
    test: test.length > 0 ? { name: config.task!, evaluate: evaluate(test) } : null,
  }
}
