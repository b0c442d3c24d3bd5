// The weights of a run after some steps of its journal, from the newest saved checkpoint that can serve.
// Reading and checking the journal is src/run/journal.ts's, making an engine src/engine/open.ts's.

import type { Config } from '../config/options.ts'
import { openCheckpoint } from '../checkpoint/open.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import type { LoadedModel } from '../engine/load.ts'
import { methodOf } from '../engine/method.ts'
import type { EngineState } from '../engine/open.ts'
import { findTensors } from '../engine/tensors.ts'
import { savedCheckpoints } from '../run/folder.ts'
import { replay, type JournalEntry } from '../run/journal.ts'
import type { Reporter } from '../util/console.ts'
import { UserError } from '../util/errors.ts'

/**
 * The state after `entries`: only what follows a saved checkpoint is replayed. Where what is folded
 * together decides bits (factored methods, an overlay that rounds), and where a checkpoint holds no
 * weights (a prefix), all is replayed from the base. A damaged checkpoint costs time, not the run.
 */
export async function stateAfter(
  dir: string,
  entries: readonly JournalEntry[],
  config: Config,
  { model }: LoadedModel,
  report: Reporter,
): Promise<Pick<EngineState, 'updates' | 'folded' | 'checkpoint'>> {
  const updates = replay(entries, config.weightDecay)
  const { method, methodOptions } = methodOf(config, model)
  const whole = config.prefixTokens === undefined
  const saved = whole && method.resumesFromWeights(methodOptions) ? await savedCheckpoints(dir) : []
  for (const { step, dir: folder } of saved.filter((each) => each.step <= entries.length)) {
    const checkpoint = await usable(folder, model, report)
    if (!checkpoint) continue
    const contained = entries.slice(0, step).filter((entry) => !entry.skipped)
    return { updates, folded: contained.length, checkpoint }
  }
  return { updates, folded: 0 }
}

/** The checkpoint, if it is whole and of this model; else null, and a line that says so. */
async function usable(
  folder: string,
  model: LoadedModel['model'],
  report: Reporter,
): Promise<Checkpoint | null> {
  try {
    const checkpoint = await openCheckpoint(folder)
    findTensors(model, checkpoint)
    return checkpoint
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    report.line(
      `${folder} is damaged and passed over (${error.message}); the journal is replayed instead`,
    )
    return null
  }
}
