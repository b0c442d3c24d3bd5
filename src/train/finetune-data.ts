// What a fine-tuning run trains on: examples of files or of a task, or random tokens for a synthetic
// model. The run itself is finetune.ts.

import type { Notify } from './callbacks.ts'
import type { Config } from '../config/options.ts'
import { loadExamples } from '../data/examples.ts'
import { randomExamples, wordless } from '../data/random-tokens.ts'
import type { Example, Tokenizer } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { fileHash } from '../run/fingerprint.ts'
import { dataTokenizer } from '../data/model-tokenizer.ts'
import type { Reporter } from '../util/console.ts'
import type { LoadedModel } from '../engine/open.ts'
import { aimOf, examplesHash, taskData, type Aim } from './task.ts'
import type { Feed } from './feed.ts'
import { isSynthetic } from '../checkpoint/synthetic.ts'

export interface RunData {
  readonly tokenizer: Tokenizer
  readonly train: readonly Example[]
  readonly aim: Aim
  readonly held: readonly Example[]
  /** A task's evaluation examples, scored once at the end. */
  readonly test: readonly Example[]
  /** Of the training data. */
  readonly sha256: string
  /** Batches and evaluations that are not made of examples; the lists are empty then. */
  readonly feed?: (engine: Engine) => Feed
  /** Listens to the run. */
  readonly notify?: (engine: Engine) => Notify
}

/** Training, held-out and test examples as the options say. */
export async function loadData(
  loaded: LoadedModel,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<RunData> {
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
function randomData({ model }: LoadedModel, config: Config): RunData {
  const { batchSize, maxLength, seed } = config
  const [tokens, vocab] = [Math.min(maxLength, model.maxPositions), model.vocabSize]
  const train = randomExamples(RANDOM_BATCHES * batchSize, tokens, vocab, seed)
  const tokenizer = wordless(vocab, 1)
  const aim = aimOf(config, train, tokenizer)
  return { tokenizer, train, aim, held: [], test: [], sha256: examplesHash(train) }
}

/** @throws UserError (usage) if the options name no data, or data that this source cannot use */
export function checkData(source: string, config: Config): void {
  if (config.dataset !== undefined) {
    throw new UserError('--dataset is for zo2 pretrain; give --train or --task', { exitCode: 2 })
  }
  if (!isSynthetic(source)) {
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

export function required(value: string | undefined, flag: string): string {
  if (value === undefined) throw new UserError(`${flag} is required`, { exitCode: 2 })
  return value
}
