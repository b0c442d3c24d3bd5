// DIR/runs: event files that TensorBoard shows while a run goes on. One file for each start of the
// run; a resumed run tells readers to forget the steps that it writes again. Steps are those of
// metrics.jsonl and evals.jsonl: a value at step s is of the weights after s updates.
// The bytes of a record are event.ts's business.

import { mkdir, open, readdir, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../../util/errors.ts'
import { readSteps, type StepLine as Line } from '../../run/folder.ts'
import { asUserError } from '../../io/read.ts'
import { scalarsRecord, startRecord, versionRecord, type Scalars } from './event.ts'
import { maxOf } from '../../util/extremes.ts'

interface EventLog {
  /** Adds one object of metrics.jsonl. */
  step(line: Line): Promise<void>
  /** Adds one object of evals.jsonl. */
  evaluation(line: Line): Promise<void>
  close(): Promise<void>
}

export const noEvents: EventLog = {
  step: () => Promise.resolve(),
  evaluation: () => Promise.resolve(),
  close: () => Promise.resolve(),
}

/** Field -> name in TensorBoard. */
const OF_STEP = {
  loss: 'loss/train',
  projected_grad: 'projected_grad',
  lr: 'lr',
  step_ms: 'step_ms',
  device_peak_bytes: 'device_bytes',
  rss_bytes: 'rss_bytes',
}
const OF_EVALUATION = {
  loss: 'loss/eval',
  accuracy: 'accuracy/eval',
  f1: 'f1/eval',
  exact_match: 'exact_match/eval',
}

function scalars(names: Readonly<Record<string, string>>, line: Line): Scalars {
  const entries = Object.entries(names).map(([field, name]) => [name, line[field]] as const)
  return Object.fromEntries(entries.filter((e): e is [string, number] => typeof e[1] === 'number'))
}

/**
 * Starts a new event file of the run in `dir`, whose metrics.jsonl and evals.jsonl have `steps` whole
 * steps. Steps that a kill kept from the files before are written again from there.
 * @throws UserError if the folder cannot be written
 */
export async function openEventLog(dir: string, steps: number): Promise<EventLog> {
  const folder = join(dir, 'runs')
  const own = (error: unknown): never => {
    throw asUserError(error, `${folder}: TensorBoard's files cannot be written`)
  }
  await mkdir(folder, { recursive: true }).catch(own)
  const stamps = (await readdir(folder).catch(own)).flatMap((name) => {
    const stamp = /^events\.out\.tfevents\.(\d+)\.zo2$/.exec(name)?.[1]
    return stamp === undefined ? [] : [Number(stamp)]
  })
  // Each step goes to the journal first, so that a kill can have cost these files the last one only.
  const from = stamps.length > 0 ? Math.max(0, steps - 1) : 0
  // Readers take files in the order of their names.
  const stamp = maxOf(
    stamps.map((s) => s + 1),
    Math.floor(Date.now() / 1000),
  )
  const path = join(folder, `events.out.tfevents.${String(stamp).padStart(10, '0')}.zo2`)
  const log = createEventLog(await open(path, 'wx').catch(own), path)
  try {
    await log.start(from)
    const missing = (line: Line) => line.step >= from && line.step < steps
    const lines = await readSteps(join(dir, 'metrics.jsonl'))
    for (const line of lines.filter(missing)) await log.step(line)
    const evaluations = await readSteps(join(dir, 'evals.jsonl'))
    for (const line of evaluations.filter(missing)) await log.evaluation(line)
    return log
  } catch (error) {
    await log.close()
    throw error
  }
}

function createEventLog(file: FileHandle, path: string) {
  /** Whole records in one write: a kill leaves no half of them, a full disk only at the end. */
  const append = async (records: Buffer) => {
    try {
      await file.appendFile(records)
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      throw new UserError(
        `${path}: cannot be written (${code}); free some disk space and continue with --resume, or leave these files out with --tensorboard no`,
        { cause: error },
      )
    }
  }
  const now = () => Date.now() / 1000
  return {
    start: (step: number) =>
      append(Buffer.concat([versionRecord(now()), startRecord(now(), step)])),
    step: (line: Line) => append(scalarsRecord(now(), line.step, scalars(OF_STEP, line))),
    evaluation: (line: Line) =>
      append(scalarsRecord(now(), line.step, scalars(OF_EVALUATION, line))),
    close: () => file.close(),
  }
}
