// The command that publishes: push.
// Commits are src/hub/push.ts's, the model card src/export/card.ts's.

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import type { ContextOf, Flags } from './flags.ts'
import { UserError } from '../util/errors.ts'
import { readJournal, replay } from '../run/journal.ts'
import { modelCard } from '../export/card.ts'
import { checkRepo, filesOf, push, type PushFile } from '../hub/push.ts'
import { table } from '../util/console.ts'
import { isRunRecord } from '../config/record.ts'
import { formatBytes } from '../util/units.ts'
import { readJsonObject } from '../io/read.ts'

export function pushCommand(contextOf: ContextOf): Command {
  return new Command('push')
    .description("publish a run's model, or a folder that zo2 export wrote, on the hub")
    .argument('<source>', 'output folder of zo2 finetune, or a model or adapter folder')
    .argument('<repo>', 'OWNER/NAME')
    .option('--private', 'if the repository is made now, make it private')
    .option('--revision <branch>', 'branch to commit to (default: main)')
    .option('--message <text>', 'of the commit (default: "zo2: NAME")')
    .option('--dry-run', 'show what would be published')
    .action(async (source: string, repo: string, flags: Flags) => {
      const { report, result, stop } = contextOf(flags)
      checkRepo(repo)
      const files = await filesToPush(source)
      const rows = files.map(({ name, bytes }) => [name, formatBytes(bytes)])
      const listed = { repo, files: files.map(({ name, bytes }) => ({ name, bytes })) }
      if (flags['dryRun'] === true) {
        result({ ...listed, commit: null }, () => [`would publish on ${repo}:`, ...table(rows)])
        return
      }
      const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
      report.line(`publishing ${files.length} files, ${formatBytes(total)}, on ${repo}`)
      const { commit, url } = await push({
        repo,
        files,
        report,
        signal: stop,
        private: flags['private'] === true,
        message: (flags['message'] as string | undefined) ?? `zo2: ${repo.split('/')[1]}`,
        ...(typeof flags['revision'] === 'string' && { revision: flags['revision'] }),
      })
      result({ ...listed, commit, url }, () => [`published ${url}`])
    })
}

/** Of a run: its model or adapter, with a card of its records; of another folder: what is in it. */
async function filesToPush(source: string): Promise<PushFile[]> {
  const config = await readJsonObject(join(source, 'config.json')).catch(() => null)
  if (!isRunRecord(config)) return filesOf(source)
  for (const name of ['model', 'adapter']) {
    const dir = join(source, name)
    if (!(await stat(dir).catch(() => null))) continue
    const files = await filesOf(dir)
    const updates = replay(await readJournal(join(source, 'journal.jsonl')), 0).length
    const card = new Blob([await modelCard(source, { updates, adapter: name === 'adapter' })])
    return [
      ...files.filter((file) => file.name !== 'README.md'),
      { name: 'README.md', bytes: card.size, content: card },
    ]
  }
  throw new UserError(
    `${source} has no model yet; let the run end (--resume), or zo2 export it and push that folder`,
  )
}
