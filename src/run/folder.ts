// The files of a run: config.json (what it was started with), journal.jsonl, metrics.jsonl,
// checkpoint-<step>/ and model/. Decides whether a run may start or go on in a folder; what is in
// the files is made elsewhere.

import { appendFile, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Scored } from './best.ts'
import { UserError } from '../util/errors.ts'
import { defaultOf, type OptionName } from '../config/options.ts'
import { meanLoss, type JournalEntry } from './journal.ts'
import { temporaryBeside, writeTextAtomically } from '../io/atomic.ts'
import { asUserError } from '../io/read.ts'
import { readRunRecord, trajectoryOptions, type RunRecord } from '../config/record.ts'
import { flag, type Values } from '../config/spec.ts'

/** Makes the folder. UserError if the path is something else. */
export async function makeRunFolder(dir: string): Promise<void> {
  try {
    await mkdir(dir, { recursive: true })
  } catch (error) {
    throw asUserError(error, `${dir}: expected a folder, or a place for a new one`)
  }
}

/** What only a run that made steps leaves; model/ and adapter/ are also made of a run of none. */
const AFTER_STEPS = /^(checkpoint|ckpt)-\d+$/
const RESULT = /^(model|adapter)$/

/**
 * Decides whether a run may start or go on in the folder; its lock must be held. A run that never
 * made a step may be started anew; the work of another one is never taken over, nor emptied.
 * @returns the record of the run to continue, or null for a new one
 * @throws UserError naming the file that is there, or is missing, and what to do
 */
export async function claimRunFolder(dir: string, resume: boolean): Promise<RunRecord | null> {
  await removeLeftovers(dir)
  const before = await readRunRecord(dir)
  const names = await readdir(dir)
  const journal = await stat(join(dir, 'journal.jsonl')).catch(() => null)
  const hasSteps = journal !== null && journal.size > 0
  const work = names.find(
    (name) => AFTER_STEPS.test(name) || (journal === null && RESULT.test(name)),
  )
  if (!before && hasSteps) {
    throw new UserError(
      `${dir} holds journal.jsonl of a run, but not its config.json, which says what was run: restore config.json, or choose another --output-dir`,
    )
  }
  if (!hasSteps && work !== undefined) {
    throw new UserError(
      `${dir} holds ${work}/ of a run, but not its journal.jsonl, without which it cannot go on: restore journal.jsonl, or choose another --output-dir`,
    )
  }
  if (!before && resume) {
    // init/ is what pre-training from scratch makes first.
    const early = (name: string) => name.startsWith('run.lock') || name === 'init'
    if (names.every(early)) return null // it ended before it had a record
    throw new UserError(`${dir} holds no run to resume (no config.json); leave out --resume`)
  }
  if (!before || !hasSteps) return null
  if (resume) return before
  throw new UserError(
    `${dir} holds a run already; continue it with --resume or choose another --output-dir`,
  )
}

/** Writes config.json, after checking that the run goes on as it began. */
export async function recordRun(
  dir: string,
  before: RunRecord | null,
  record: RunRecord,
): Promise<void> {
  if (before) checkSame(dir, before, record)
  await writeTextAtomically(join(dir, 'config.json'), JSON.stringify(record, null, 2) + '\n')
}

/** Removes what a killed run left half-written; nothing finished has such a name. */
async function removeLeftovers(dir: string): Promise<void> {
  const leftover =
    /^(\.((config|device)\.json|metrics\.jsonl|evals\.jsonl|prefix\.safetensors|model|adapter|init|(checkpoint|ckpt)-\d+)\.[0-9a-f]{12,20}\.tmp|\.zo2-overlay-\d+-\d+|run\.lock\..+)$/
  for (const name of await readdir(dir)) {
    if (leftover.test(name)) await rm(join(dir, name), { recursive: true, force: true })
  }
}

/** Removes a finished folder such that a kill in between leaves no half of it under its name. */
export async function discard(path: string): Promise<void> {
  const aside = await temporaryBeside(path)
  try {
    await rename(path, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw asUserError(error, `${path}: cannot be replaced`)
  }
  await rm(aside, { recursive: true, force: true })
}

function checkSame(dir: string, before: RunRecord, now: RunRecord): void {
  if (before.fingerprint !== now.fingerprint) {
    throw new UserError(
      `${dir} was run on other weights (${before.model}, fingerprint ${before.fingerprint}) than ${now.model} (${now.fingerprint}); resume with the same model`,
    )
  }
  if (before.commit !== now.commit) {
    throw new UserError(
      `${dir} was run on commit ${before.commit} of ${before.model}, found ${now.commit}; resume with the same --revision`,
    )
  }
  if (before.train_sha256 !== now.train_sha256) {
    throw new UserError(
      `${dir} was run on other training data than ${dataOf(now)} holds now (it was ${dataOf(before)}); resume with the same data`,
    )
  }
  const [then, today]: [Values, Values] = [before.config, now.config]
  for (const key of trajectoryOptions(today)) {
    // An option that is not there, being younger than the run or another command's, had its default's effect.
    const usual = defaultOf(key as OptionName, [])
    const [was, is] = [then[key] ?? usual, today[key] ?? usual].map((value) =>
      JSON.stringify(value),
    )
    if (was !== is) {
      throw new UserError(
        `${dir} was run with ${flag(key)} ${was ?? 'left out'}, found ${is ?? 'none'}; resume with the same`,
      )
    }
  }
}

/** The training data of a run as its user named it. */
const dataOf = ({ config }: RunRecord) =>
  config.train ?? config.dataset ?? (config.task ? `--task ${config.task}` : 'the train dataset')

/** Finished folders NAME-<step>/ of a run, the newest first; half-written ones have other names. */
async function foldersByStep(dir: string, name: 'checkpoint' | 'ckpt') {
  const pattern = new RegExp(`^${name}-(\\d+)$`)
  return (await readdir(dir))
    .map((entry) => pattern.exec(entry))
    .filter((match) => match !== null)
    .map((match) => ({ step: Number(match[1]), dir: join(dir, match[0]) }))
    .sort((a, b) => b.step - a.step)
}

/** checkpoint-<step>/, which a resumed run may start from. */
export const savedCheckpoints = (dir: string) => foldersByStep(dir, 'checkpoint')

/** ckpt-<step>/ of pre-training: the best model so far; a kill may leave two. */
export const keptCheckpoints = (dir: string) => foldersByStep(dir, 'ckpt')

/** Removes all but the newest `keep` checkpoints. */
export async function pruneCheckpoints(dir: string, keep: number): Promise<void> {
  for (const old of (await savedCheckpoints(dir)).slice(keep)) await discard(old.dir)
}

/** After a kill: no checkpoint of steps that the journal has not, and no more than `keep`. */
export async function settleCheckpoints(dir: string, steps: number, keep: number): Promise<void> {
  for (const saved of await savedCheckpoints(dir)) {
    if (saved.step > steps) await discard(saved.dir)
  }
  await pruneCheckpoints(dir, keep)
}

/**
 * Adds one line to metrics.jsonl or evals.jsonl.
 * @throws UserError if it cannot be written
 */
export async function appendLine(path: string, value: object): Promise<void> {
  try {
    await appendFile(path, JSON.stringify(value) + '\n')
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    throw new UserError(
      `${path}: cannot be written (${code}); free some disk space and continue with --resume`,
      { cause: error },
    )
  }
}

/**
 * Makes metrics.jsonl and evals.jsonl fit the journal after a kill: each journalled step has one
 * line, which is what the journal knows if its own was lost; evaluations from here on are made anew.
 */
export async function mendMetrics(dir: string, entries: readonly JournalEntry[]): Promise<void> {
  const path = join(dir, 'metrics.jsonl')
  const known = new Map((await readSteps(path)).map((line) => [line.step, line]))
  const lines = entries.map((entry) => known.get(entry.step) ?? stepMetrics(entry))
  await writeLines(path, lines)
  const evals = join(dir, 'evals.jsonl')
  const kept = (await readSteps(evals)).filter(
    ({ step, split }) => step < entries.length && split === undefined,
  )
  await writeLines(evals, kept)
}

/** What the journal knows of a step, as metrics.jsonl has it. */
export const stepMetrics = (entry: JournalEntry) => ({
  step: entry.step,
  loss: meanLoss(entry),
  loss_plus: entry.loss_plus,
  loss_minus: entry.loss_minus,
  projected_grad: entry.projected_grad,
  lr: entry.lr,
  eps: entry.eps,
})

/** Evaluations during the run in `dir`; not those after it, of a task's own examples. */
export async function evaluationsIn(dir: string): Promise<Scored[]> {
  const lines = await readSteps(join(dir, 'evals.jsonl'))
  return lines.filter(({ split }) => split === undefined) as unknown as Scored[]
}

/** An object of metrics.jsonl or evals.jsonl. */
export type StepLine = Readonly<Record<string, unknown>> & { readonly step: number }

/** The whole lines of a file that may be absent or torn. */
export async function readSteps(path: string): Promise<StepLine[]> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw asUserError(error, `${path}: cannot be read`)
  })
  return text.split('\n').flatMap((line) => {
    try {
      const value = JSON.parse(line) as { step?: unknown } | null
      return typeof value?.step === 'number' ? [value as StepLine] : []
    } catch {
      return []
    }
  })
}

async function writeLines(path: string, lines: readonly object[]): Promise<void> {
  if (lines.length === 0) return rm(path, { force: true })
  await writeTextAtomically(path, lines.map((line) => JSON.stringify(line) + '\n').join(''))
}
