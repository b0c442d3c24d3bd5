// config.json of a run's folder: what the run was started with, and how such a file is recognised.
// Which options a resumed run must repeat is said in the options' tables; src/train/run.ts compares.

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { readJsonObject } from '../io/read.ts'
import { UserError } from '../util/errors.ts'
import {
  OPTION_NAMES,
  OPTIONS,
  specOf,
  storedConfig,
  takes,
  valuesOf,
  type Config,
} from './options.ts'
import type { Command, Values } from './spec.ts'
import { readSpellings } from './spellings.ts'

const MAX_RECORD_BYTES = 2 ** 24

/** config.json of a run. */
export interface RunRecord {
  readonly zo2: string
  readonly model: string
  /** The hub's commit, or null for a local folder. */
  readonly commit: string | null
  /** See run/fingerprint.ts: identifies the base weights. */
  readonly fingerprint: string
  /** Of the training data. */
  readonly train_sha256: string
  /** Options by the names of the table. */
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
  if (!parsed.success) {
    throw new UserError(`${path}: not the record of a run; name the output folder of zo2 finetune`)
  }
  // Names of earlier versions become those of today.
  const options: Record<string, unknown> = { ...parsed.data.config }
  delete options['padding'] // of earlier versions; it decides nothing any more
  const config = valuesOf(readSpellings(options, OPTIONS, `${path}: `))
  return { ...parsed.data, config }
}

/** The configuration of a recorded run, defaults filled in. */
export const configOfRecord = ({ config }: RunRecord): Config => storedConfig(config)

/** What the record of a command's run keeps of its configuration; the model has its own place there. */
export function recordedOptions(config: Config, command: Command): Partial<Config> {
  const values: Values = config
  const kept = OPTION_NAMES.filter((name) => specOf(name).group !== 'model')
  const own = kept.filter((name) => takes([command], name) && values[name] !== undefined)
  return Object.fromEntries(own.map((name) => [name, values[name]]))
}

/** Options that decide the weights of a run with this configuration. */
export function trajectoryOptions(config: Values): string[] {
  return OPTION_NAMES.filter((name) => {
    const { trajectory } = specOf(name)
    return typeof trajectory === 'function' ? trajectory(config) : trajectory
  })
}
