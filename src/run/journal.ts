// journal.jsonl: one line per step, durable before the step takes effect. Base checkpoint + config +
// journal = the model; resuming is replaying. A torn last line (a crash while writing) is cut off.

import { open, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { z } from 'zod'
import { UserError } from '../util/errors.ts'
import type { Estimator } from '../methods/estimator.ts'
import type { Update } from '../methods/method.ts'
import { syncDirectory } from '../io/atomic.ts'
import { asUserError } from '../io/read.ts'

const Entry = z.strictObject({
  /** 0-based. */
  step: z.int().nonnegative(),
  lr: z.number(),
  eps: z.number(),
  /** Of the one direction; with several, the mean of projected_grads. */
  projected_grad: z.number(),
  /** One for each of several directions. */
  projected_grads: z.array(z.number()).optional(),
  /**
   * Mean loss over the labelled tokens, over the probes of each side; the minus side of a one-sided
   * estimate is the centre. null when it was not finite.
   */
  loss_plus: z.number().nullable(),
  loss_minus: z.number().nullable(),
  /** At the centre, where it is not the mean of both sides. */
  loss: z.number().optional(),
  /** The step had a non-finite loss and changed nothing. */
  skipped: z.literal(true).optional(),
})

/**
 * A line of journal.jsonl.
 * @interface
 */
export type JournalEntry = Readonly<z.infer<typeof Entry>>

/** The loss at the centre, or its estimate as the mean of both sides; null for a skipped step. */
export const meanLoss = (entry: JournalEntry | undefined): number | null =>
  entry?.loss_plus == null || entry.loss_minus === null
    ? null
    : (entry.loss ?? (entry.loss_plus + entry.loss_minus) / 2)

/** What a step writes down, from the mean loss of each probe. */
export function entryOf(
  at: Pick<JournalEntry, 'step' | 'lr' | 'eps'>,
  losses: readonly number[],
  estimator: Estimator,
): JournalEntry {
  const grads = estimator.grads(losses, at.eps)
  if (!grads.every(Number.isFinite)) {
    return { ...at, projected_grad: 0, loss_plus: null, loss_minus: null, skipped: true }
  }
  const sides = estimator.sides(losses)
  return {
    ...at,
    projected_grad: grads.reduce((sum, grad) => sum + grad, 0) / grads.length,
    ...(grads.length > 1 && { projected_grads: grads }),
    loss_plus: sides.plus,
    loss_minus: sides.minus,
    ...(estimator.oneSided && { loss: estimator.centre(losses) }),
  }
}

/** The update that an entry means; not for skipped steps. */
export function updateOf(entry: JournalEntry, weightDecay: number): Update {
  const { step, lr, projected_grad, projected_grads: several = [projected_grad] } = entry
  const grads = several.map((grad) => grad / several.length)
  return { step, lr, grads, decay: Math.fround(1 - lr * weightDecay) }
}

export interface Journal {
  readonly entries: readonly JournalEntry[]
  /** Writes the line and waits until the disk has it. */
  append(entry: JournalEntry): Promise<void>
  close(): Promise<void>
}

/** Opens (or creates) a journal and reads what it holds. UserError if a line is damaged. */
export async function openJournal(path: string): Promise<Journal> {
  const own = (error: unknown): never => {
    throw asUserError(error, `${path}: cannot be opened for writing`)
  }
  const file = await open(path, 'a+').catch(own)
  try {
    const { entries, bytes } = parse(path, await file.readFile('utf8').catch(own))
    await file.truncate(bytes).catch(own)
    await syncDirectory(dirname(path)).catch(own) // the file's name is as durable as its lines
    return createJournal(file, path, entries)
  } catch (error) {
    await file.close()
    throw error
  }
}

/**
 * Reads a journal without changing the file.
 * @throws UserError if there is none, or a line but the last is damaged
 */
export async function readJournal(path: string): Promise<JournalEntry[]> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    throw new UserError(`${path}: no journal there; expected the output folder of zo2 finetune`, {
      cause: error,
    })
  }
  try {
    return parse(path, await file.readFile('utf8')).entries
  } finally {
    await file.close()
  }
}

/** The updates that the entries mean, in order. */
export function replay(entries: readonly JournalEntry[], weightDecay: number): Update[] {
  return entries.filter((entry) => !entry.skipped).map((entry) => updateOf(entry, weightDecay))
}

function createJournal(file: FileHandle, path: string, entries: JournalEntry[]): Journal {
  return {
    entries,
    async append(entry) {
      const text = JSON.stringify(entry)
      try {
        await file.appendFile(`${text}\n`)
        await file.datasync()
      } catch (error) {
        throw new UserError(
          `${path}: step ${entry.step} could not be recorded (${(error as Error).message}); free some disk space and continue with --resume`,
          { cause: error },
        )
      }
      // As it was written; and entries made so have one shape among them, where each of those that are
      // put together from parts would keep 300 bytes for a shape of its own.
      entries.push(JSON.parse(text) as JournalEntry)
    },
    close: () => file.close(),
  }
}

/** All complete lines; `bytes` is where they end. A last line without its newline does not count. */
function parse(path: string, text: string): { entries: JournalEntry[]; bytes: number } {
  const end = text.lastIndexOf('\n') + 1
  const entries: JournalEntry[] = []
  for (const [i, line] of text.slice(0, end).split('\n').slice(0, -1).entries()) {
    const entry = parseLine(line)
    if (!entry || entry.step !== i) {
      throw new UserError(
        `${path}: line ${i + 1} is damaged (expected step ${i}, found ${line.slice(0, 60)}); restore the file, or cut it there to go back to step ${i}`,
      )
    }
    entries.push(entry)
  }
  return { entries, bytes: Buffer.byteLength(text.slice(0, end)) }
}

function parseLine(line: string): JournalEntry | null {
  try {
    return Entry.parse(JSON.parse(line)) as JournalEntry
  } catch {
    return null
  }
}
