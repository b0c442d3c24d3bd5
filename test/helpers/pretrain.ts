// What tests of pre-training share: a text and its tokens, and runs of a tiny GPT on them.
// A test file that imports this prepares the data before its tests.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll } from 'vitest'
import { parseConfig } from '../../src/config/options.ts'
import { prepare } from '../../src/data/prepare.ts'
import { pretrain } from '../../src/train/pretrain.ts'
import { silent, type Reporter } from '../../src/util/console.ts'
import { ROOT } from './cli.ts'
import { tempFolder } from './runs.ts'

export const folder = tempFolder()
export const data = join(folder, 'data')
export const GPT = join(ROOT, 'test/fixtures/gpt')
/** 14 characters: below the vocabulary of the fixtures. */
export const TEXT = 'to be or not to be that is the question\n'.repeat(60)
export const SHAPE = { nLayer: 1, nHead: 2, nEmbd: 16, maxLength: 16, evalIters: 2 }
export const CPU = { device: 'cpu', threads: 1, tensorboard: false }
export const never = new AbortController().signal
export type Options = Record<string, unknown>

beforeAll(async () => {
  writeFileSync(join(folder, 'text.txt'), TEXT)
  await prepare('shakespeare_char', { inputs: [join(folder, 'text.txt')], outputDir: data })
})

/** A pre-training run on the data. */
export function run(outputDir: string, options: Options, report: Reporter = silent, stop = never) {
  const base = { ...CPU, ...SHAPE, dataset: data, batchSize: 4, outputDir }
  return pretrain(parseConfig({ ...base, ...options }, 'pretrain'), report, stop)
}

export const read = (dir: string, ...names: string[]) => readFileSync(join(dir, ...names))
