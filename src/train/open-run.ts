// A run's folder from claim to release: locked, checked, mended after a kill, its journal open while
// the run goes on. What the run does meanwhile is finetune.ts's matter, or src/api/trainer.ts's.

import { join } from 'node:path'
import type { Config } from '../config/options.ts'
import { fingerprint } from '../run/fingerprint.ts'
import { openJournal, replay, type Journal, type JournalEntry } from '../run/journal.ts'
import { lockRun } from '../io/lock.ts'
import {
  claimRunFolder,
  makeRunFolder,
  mendMetrics,
  recordRun,
  savedCheckpoints,
  settleCheckpoints,
} from '../run/folder.ts'
import { type RunRecord } from '../config/record.ts'
import type { Method } from '../methods/method.ts'
import type { EngineState, LoadedModel } from '../engine/open.ts'
import type { TrainResult } from './loop.ts'
import { VERSION } from '../util/version.ts'
import { openCheckpoint } from '../checkpoint/open.ts'

/**
 * Runs `use` in the folder `dir`.
 * @param prepare loads what the run needs and describes it; gets the record of the run to continue
 * @throws UserError if another run is there, or the run to continue was another one
 */
export async function inRunFolder<P extends { readonly record: RunRecord }, T>(
  dir: string,
  { resume, saveTotalLimit }: { readonly resume: boolean; readonly saveTotalLimit: number },
  prepare: (before: RunRecord | null) => Promise<P>,
  use: (journal: Journal, prepared: P, before: RunRecord | null) => Promise<T>,
): Promise<T> {
  await makeRunFolder(dir)
  const unlock = await lockRun(dir)
  try {
    const before = await claimRunFolder(dir, resume)
    const prepared = await prepare(before)
    await recordRun(dir, before, prepared.record)
    const journal = await openJournal(join(dir, 'journal.jsonl'))
    try {
      await mendMetrics(dir, journal.entries)
      await settleCheckpoints(dir, journal.entries.length, saveTotalLimit)
      return await use(journal, prepared, before)
    } finally {
      await journal.close()
    }
  } finally {
    await unlock()
  }
}

/** What config.json says of a run. */
export const recordOf = async (
  { source, commit, checkpoint }: LoadedModel,
  trainHash: string,
  config: Config,
): Promise<RunRecord> => ({
  zo2: VERSION,
  model: source,
  commit,
  fingerprint: await fingerprint(checkpoint),
  train_sha256: trainHash,
  config,
})

/** The step whose weights a run ends with: the last, or the best if that is asked for. */
export const keptStep = (config: Config, { stopped, bestStep, steps }: TrainResult): number =>
  config.loadBestModelAtEnd && !stopped && bestStep !== null ? bestStep : steps

/**
 * The weights after `entries`, from the newest saved checkpoint that is not beyond them: only what
 * follows it is replayed. Where what is folded together decides bits (factored methods, an overlay that
 * rounds), all is replayed from the base.
 */
export async function stateAfter(
  dir: string,
  entries: readonly JournalEntry[],
  { weightDecay, overlayDtype, prefixTokens }: Pick<Config, 'weightDecay' | 'overlayDtype' | 'prefixTokens'>, // prettier-ignore
  method: Pick<Method, 'structure'>,
): Promise<Pick<EngineState, 'updates' | 'folded' | 'checkpoint'>> {
  const updates = replay(entries, weightDecay)
  const whole = prefixTokens === undefined // saved checkpoints of a prefix hold no weights
  const exact = whole && method.structure === 'dense' && overlayDtype === 'float32'
  const saved = exact ? await savedCheckpoints(dir) : []
  const newest = saved.find(({ step }) => step <= entries.length)
  if (!newest) return { updates, folded: 0 }
  const contained = entries.slice(0, newest.step).filter((entry) => !entry.skipped)
  return { updates, folded: contained.length, checkpoint: await openCheckpoint(newest.dir) }
}
