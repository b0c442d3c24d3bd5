// The command that makes a model of a run's journal: export.
// Replaying is src/train/state.ts's, the folder src/export's.

import { join, resolve } from 'node:path'
import { Command } from 'commander'
import { configOfRecord, readRunRecord, type RunRecord } from '../config/record.ts'
import type { Config } from '../config/options.ts'
import { loadModel, type LoadedModel } from '../engine/load.ts'
import { openEngine } from '../engine/open.ts'
import { exportLora } from '../export/adapter.ts'
import { modelCard } from '../export/card.ts'
import { writeTrained } from '../export/result.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { bestOf, criterionOf } from '../run/best.ts'
import { fingerprint } from '../run/fingerprint.ts'
import { evaluationsIn } from '../run/folder.ts'
import { readJournal, replay } from '../run/journal.ts'
import { DTYPES } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import { addOptions, configOf, type Context, type ContextOf, type Flags } from './flags.ts'

export function exportCommand(contextOf: ContextOf): Command {
  const command = new Command('export')
    .description('write base + journal of a run as a Hugging Face folder')
    .argument('<run>', 'output folder of zo2 finetune')
    .argument('<out>', 'new folder')
    .option('--model <model>', 'base model, if it is not where the run found it')
    .option(
      '--step <which>',
      'last, best or a number of steps (default: what the run keeps as its model)',
    )
    .option('--as-lora', 'write the change as a LoRA adapter that peft loads')
  addOptions(command, 'export')
  return command.action(async (run: string, out: string, flags: Flags) => {
    const context = contextOf(flags)
    const record = await readRunRecord(run)
    if (!record) throw new UserError(`${run}: no run there (no config.json)`)
    const config = exportConfig(record, configOf(flags, 'export'))
    const asLora = flags['asLora'] === true
    const adapter = asLora || config.prefixTokens !== undefined
    if (adapter && flags['dtype'] !== undefined) {
      throw new UserError('--dtype is of a model, and an adapter is float32: leave it out', {
        exitCode: 2,
      })
    }
    const moved = flags['model'] as string | undefined
    const loaded = await baseOf(run, record, moved, config, context)
    const journal = await readJournal(join(run, 'journal.jsonl'))
    const step = await stepOf(run, flags['step'], config, journal.length)
    const entries = journal.filter((entry) => entry.step < step)
    const updates = replay(entries, config.weightDecay)
    // Weights are made by the fold threads on the host; the device, wherever the run was, only completes
    // the engine.
    const state = { updates, folded: 0, trains: false, scratchDir: run }
    const { engine, close } = await openEngine(loaded, config, state)
    try {
      const card = await modelCard(run, { updates: updates.length, adapter })
      const extra = (folder: string) => writeTextAtomically(join(folder, 'README.md'), card)
      if (asLora) await exportLora(engine, out, loaded.source, extra)
      else {
        await writeTrained(engine, out, loaded, {
          dtype: DTYPES[config.dtype],
          extra,
          onProgress: (done, total) => {
            context.stop.throwIfAborted()
            context.report.live(`writing ${((100 * done) / total).toFixed(0)} %`)
          },
        })
      }
    } finally {
      await close()
    }
    context.result({ model_dir: resolve(out), step, updates: updates.length }, () => [
      `wrote ${out}: ${record.model} + ${updates.length} updates (step ${step} of ${journal.length})`,
    ])
  })
}

/** The run's own configuration: what decides the weights comes from no flag, nor from a default of today. */
function exportConfig(record: RunRecord, { dtype, threads, cacheDir }: Config): Config {
  const own = configOfRecord(record)
  delete own.adapter
  delete own.trace
  return { ...own, dtype, threads, device: 'cpu', ...(cacheDir !== undefined && { cacheDir }) }
}

/** The base model of the run, checked to be the one that it was made on. */
async function baseOf(
  run: string,
  record: RunRecord,
  moved: string | undefined,
  config: Config,
  { report }: Context,
): Promise<LoadedModel> {
  const pinned = moved === undefined && record.commit !== null
  const options = pinned ? { ...config, revision: record.commit! } : config
  const loaded = await loadModel(moved ?? record.model, options, report)
  if ((await fingerprint(loaded.checkpoint)) === record.fingerprint) return loaded
  throw new UserError(
    `${run} was run on other weights than ${loaded.source}; name the base with --model`,
  )
}

/** Steps whose updates are wanted: of the last one, of the best evaluation, or as many as given. */
async function stepOf(run: string, flag: unknown, config: Config, last: number): Promise<number> {
  const which = flag ?? (config.loadBestModelAtEnd ? 'best' : 'last')
  if (which === 'last') return last
  if (which === 'best') {
    const best = bestOf(await evaluationsIn(run), criterionOf(config))
    if (best) return best.step
    if (flag === undefined) return last
    throw new UserError(`${run} has no evaluation yet: no step is the best; name one with --step`)
  }
  const step = Number(which)
  if (typeof which === 'string' && /^\d+$/.test(which) && step <= last) return step
  throw new UserError(
    `--step: expected last, best or a number up to ${last}, found ${JSON.stringify(which)}`,
    { exitCode: 2 },
  )
}
