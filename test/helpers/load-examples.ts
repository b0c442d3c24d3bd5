// Examples of a data file that a test writes out, by the small tokenizer unless it brings another.

import { join } from 'node:path'
import { loadExamples, type ExampleOptions } from '../../src/data/examples.ts'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { FILES, folder } from './small-tokenizer.ts'

export const tokenizer = await loadTokenizer(await folder(FILES))

export const SST2 = {
  template: '{text} It was',
  labelWords: ['terrible', 'great'],
  maxLength: 64,
}

export const jsonl = (...rows: object[]) => rows.map((row) => JSON.stringify(row)).join('\n')

/** The examples of a file of this name; the log names it without its folder. */
export async function load(
  data: string,
  options: Partial<ExampleOptions> = {},
  { name = 'x.jsonl', by = tokenizer } = {},
) {
  const path = join(await folder({ [name]: data }), name)
  const set = await loadExamples(path, by, { maxLength: 64, ...options })
  return { ...set, log: set.log.map((line) => line.replaceAll(path, name)) }
}
