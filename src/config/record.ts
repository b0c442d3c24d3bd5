// config.json of a run's folder: what the run was started with, and how such a file is told from others.

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { UserError } from '../util/errors.ts'
import { readJsonObject } from '../io/read.ts'
import type { Config } from './options.ts'

const MAX_RECORD_BYTES = 2 ** 24

/** config.json of a run. */
export interface RunRecord {
  readonly zo2: string
  readonly model: string
  /** The hub's commit, or null for a local folder. */
  readonly commit: string | null
  /** See fingerprint.ts: identifies the base weights. */
  readonly fingerprint: string
  /** Of the training data. */
  readonly train_sha256: string
  readonly config: Partial<Config>
}

const Record: z.ZodType<RunRecord> = z.object({
  zo2: z.string(),
  model: z.string(),
  commit: z.string().nullable(),
  fingerprint: z.string(),
  train_sha256: z.string(),
  config: z.record(z.string(), z.unknown()),
})

/** Whether a parsed file is a run's config.json. */
export const isRunRecord = (value: unknown): value is RunRecord => Record.safeParse(value).success

/** The record of the run in `dir`, or null. UserError if its config.json is something else. */
export async function readRunRecord(dir: string): Promise<RunRecord | null> {
  const path = join(dir, 'config.json')
  if (!(await stat(path).catch(() => null))) return null
  const parsed = Record.safeParse(await readJsonObject(path, MAX_RECORD_BYTES))
  if (parsed.success) return parsed.data
  throw new UserError(`${path}: not the record of a run; name the output folder of zo2 finetune`)
}
