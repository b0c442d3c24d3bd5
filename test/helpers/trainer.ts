// What tests of ZOTrainer share: a small open model with its examples, and a trainer of four steps on them.
// A test file that imports this opens the model before its tests and closes it after them.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import {
  fromPretrained,
  loadExamples,
  ZOTrainer,
  type Example,
  type JournalEntry,
  type TrainingArgumentsSpelled,
  type ZoModel,
  type ZOTrainerOptions,
} from '../../src/index.ts'
import { TINY } from './cli.ts'
import { tempFolder } from './runs.ts'

export const home = tempFolder()
const TEXTS = Array.from({ length: 9 }, (_, i) => ({
  prompt: `the ${'very '.repeat(i % 4)}old man`,
  completion: i % 2 ? ' went home' : ' sat by the sea',
}))

export let model: ZoModel
export let train: readonly Example[]
export let held: readonly Example[]
beforeAll(async () => {
  model = await fromPretrained(TINY, { device: 'cpu', threads: 1 })
  writeFileSync(join(home, 'train.jsonl'), TEXTS.map((t) => JSON.stringify(t)).join('\n'))
  const tokenizer = await model.tokenizer()
  const { examples } = await loadExamples(join(home, 'train.jsonl'), tokenizer, { maxLength: 16 })
  ;[train, held] = [examples, examples.slice(0, 3)]
})
afterAll(() => model.close())

let runs = 0
export const folder = () => join(home, `run-${runs++}`)
export const SMALL = {
  perDeviceTrainBatchSize: 2,
  maxSteps: 4,
  learningRate: 1e-3,
  disableTqdm: true,
  reportTo: 'none',
}

/** A trainer on the examples, with a folder of its own. */
export function trainer(
  args: TrainingArgumentsSpelled = {},
  options: Partial<ZOTrainerOptions> = {},
): ZOTrainer & { dir: string } {
  const outputDir = folder()
  const merged = { ...SMALL, outputDir, ...args }
  const made = new ZOTrainer({
    model,
    args: merged,
    trainDataset: train,
    evalDataset: held,
    ...options,
  })
  return Object.assign(made, { dir: merged.outputDir })
}

export const lines = (dir: string, file: string) =>
  readFileSync(join(dir, file), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, number>)
export const journal = (dir: string) => lines(dir, 'journal.jsonl') as unknown as JournalEntry[]
export const weights = (dir: string) => readFileSync(join(dir, 'model.safetensors'))
export const rejection = (promise: Promise<unknown>) =>
  promise.then(
    () => 'nothing was wrong',
    (error: Error) => error.message,
  )
