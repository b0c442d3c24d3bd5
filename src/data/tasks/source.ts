// Where a task's rows are: the files of a split in a local folder, in the layouts that data sets
// come in, and single rows of them by index. Fetching from the hub is src/hub/dataset.ts.

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../../util/errors.ts'
import type { SourceRecord } from '../whole-file.ts'
import { parquetRows } from '../parquet.ts'
import { readRecords } from '../readers.ts'
import type { Task } from './types.ts'

export type Split = 'train' | 'validation'

/**
 * The files of a split, in the order of its rows. In `dir`, or its folder `data`, or one named as the
 * task or the configuration: `<split>/*.parquet` (the hub's own conversion), `<split>-*.parquet`,
 * or one file `<split>` with .parquet, .jsonl, .json or .arrow.
 * @throws UserError naming what was looked for
 */
export async function splitFiles(dir: string, task: Task, split: Split): Promise<string[]> {
  const { config } = task.dataset
  const folders = [
    ...new Set([config, task.name, `${config}/data`, `${task.name}/data`, '', 'data']),
  ]
  for (const folder of folders) {
    const inside = (await names(join(dir, folder, split))).filter((n) =>
      /\.(parquet|arrow)$/.test(n),
    )
    if (inside.length > 0) return inside.map((name) => join(dir, folder, split, name))
    const own = new RegExp(`^${split}(-[\\w-]+)?\\.(parquet|jsonl|json|arrow)$`)
    const beside = (await names(join(dir, folder))).filter((name) => own.test(name))
    if (beside.length > 0) return beside.map((name) => join(dir, folder, name))
  }
  throw new UserError(
    `${dir} holds no ${split} split of ${task.name}: expected ${config}/${split}/*.parquet, ` +
      `${task.name}/${split}.jsonl or the like (parquet, jsonl, json, arrow)`,
  )
}

const names = async (dir: string) => (await readdir(dir).catch(() => [])).sort()

/** Number of rows in files. */
export async function countRows(files: readonly string[]): Promise<number> {
  let rows = 0
  for (const file of files) {
    if (file.endsWith('.parquet')) rows += await parquetRows(file)
    else for await (const record of readRecords(file)) rows += Number(record.place !== '')
  }
  return rows
}

/** Rows by index, in the order of the indices; reads the files once, keeping no others. */
export async function rowsAt(
  files: readonly string[],
  indices: readonly number[],
): Promise<SourceRecord[]> {
  const wanted = new Set(indices)
  const found = new Map<number, SourceRecord>()
  let row = 0
  for (const file of files) {
    for await (const record of readRecords(file)) {
      if (wanted.has(row)) found.set(row, record)
      row++
      if (found.size === wanted.size) return indices.map((index) => found.get(index)!)
    }
  }
  return indices.map((index) => found.get(index)!)
}
