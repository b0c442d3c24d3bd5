// A run folder as a report wants it: columns of numbers by step, evaluations, options, device memory.
// Reads config.json, journal.jsonl, metrics.jsonl, evals.jsonl and device.json; only the first must
// be there. What the page looks like is page.ts's business.

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { UserError } from '../../util/errors.ts'
import { readJournal } from '../../run/journal.ts'
import { readSteps, stepMetrics, type StepLine } from '../../run/folder.ts'
import { readRunRecord } from '../../config/record.ts'
import { readJsonObject } from '../../io/read.ts'
import type { DeviceRecord } from '../run-records.ts'

/** One value for each step or evaluation; null where there is none. */
export type Column = readonly (number | null)[]

export interface RunData {
  /** The folder's name in the report. */
  readonly label: string
  readonly model: string
  /** The version that wrote it. */
  readonly zo2: string
  readonly options: Readonly<Record<string, unknown>>
  /** 0-based, ascending. */
  readonly steps: readonly number[]
  /** Of steps, by the fields of metrics.jsonl. */
  readonly metrics: Readonly<Record<MetricName, Column>>
  readonly evalSteps: readonly number[]
  /** Of evaluations, by the fields of evals.jsonl. */
  readonly evals: Readonly<Record<ScoreName, Column>>
  readonly device: DeviceRecord | null
}

const METRICS = [
  'loss',
  'projected_grad',
  'lr',
  'eps',
  'tokens',
  'step_ms',
  'wait_ms',
  'upload_bytes',
  'device_peak_bytes',
  'rss_bytes',
] as const
type MetricName = (typeof METRICS)[number]
export const SCORES = ['loss', 'accuracy', 'f1', 'exact_match'] as const
type ScoreName = (typeof SCORES)[number]

const Device: z.ZodType<DeviceRecord> = z.object({
  kind: z.string(),
  name: z.string(),
  detail: z.string(),
  peak_bytes: z.number(),
  bytes: z.record(z.string(), z.number()),
})

/**
 * Reads a run that may still go on, or was killed.
 * @throws UserError if there is no run in the folder, or its journal is damaged
 */
export async function readRun(dir: string, label = dir): Promise<RunData> {
  const record = await readRunRecord(dir)
  if (!record) throw new UserError(`${dir}: no run there (no config.json)`)
  const lines = await stepLines(dir)
  const evals = inOrder(await readSteps(join(dir, 'evals.jsonl')))
  return {
    label,
    model: record.model,
    zo2: record.zo2,
    options: record.config,
    steps: lines.map(({ step }) => step),
    metrics: columns(METRICS, lines),
    evalSteps: evals.map(({ step }) => step),
    evals: columns(SCORES, evals),
    device: await readDevice(join(dir, 'device.json')),
  }
}

/** Of each journalled step the line of metrics.jsonl, or what the journal knows if a kill took it. */
async function stepLines(dir: string): Promise<StepLine[]> {
  const lines = inOrder(await readSteps(join(dir, 'metrics.jsonl')))
  const journal = join(dir, 'journal.jsonl')
  if (!(await stat(journal).catch(() => null))) return lines
  const known = new Map(lines.map((line) => [line.step, line]))
  return (await readJournal(journal)).map((entry) => known.get(entry.step) ?? stepMetrics(entry))
}

/** By step; of several lines of a step the last one. */
const inOrder = (lines: readonly StepLine[]) =>
  [...new Map(lines.map((line) => [line.step, line])).values()].sort((a, b) => a.step - b.step)

function columns<N extends string>(
  names: readonly N[],
  lines: readonly StepLine[],
): Record<N, Column> {
  const column = (name: string): Column =>
    lines.map((line) => {
      const value = line[name]
      return typeof value === 'number' ? value : null
    })
  return Object.fromEntries(names.map((name) => [name, column(name)])) as Record<N, Column>
}

async function readDevice(path: string): Promise<DeviceRecord | null> {
  if (!(await stat(path).catch(() => null))) return null
  const parsed = Device.safeParse(await readJsonObject(path, 2 ** 20))
  if (parsed.success) return parsed.data
  throw new UserError(
    `${path}: not the device record of a run; remove it, and the report goes without`,
  )
}
