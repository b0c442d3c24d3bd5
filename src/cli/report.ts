// The command about what runs have written down: report.
// The page is src/records/report's.

import { join, resolve, sep } from 'node:path'
import { Command } from 'commander'
import type { ContextOf, Flags } from './flags.ts'
import { readRun, type RunData } from '../records/report/data.ts'
import { reportPage } from '../records/report/page.ts'
import { summaryOf } from '../records/report/summary.ts'
import { UserError } from '../util/errors.ts'
import { formatBytes } from '../util/units.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { headOf } from '../io/read.ts'

export function reportCommand(contextOf: ContextOf): Command {
  return new Command('report')
    .description('one HTML page with the curves, times, memory and options of one or several runs')
    .argument('<runs...>', 'output folders of zo2 finetune')
    .option('-o, --output <file>', 'page to write (default: report.html in the first folder)')
    .action(async (dirs: string[], flags: Flags) => {
      const { result } = contextOf(flags)
      const runs: RunData[] = []
      const labels = labelsOf(dirs)
      for (const [i, dir] of dirs.entries()) runs.push(await readRun(dir, labels[i]!))
      const path = (flags['output'] as string | undefined) ?? join(dirs[0]!, 'report.html')
      await checkPlace(path)
      const page = reportPage(runs)
      await writeTextAtomically(path, page)
      result({ report: resolve(path), runs: runs.map(jsonOf) }, () => [
        `wrote ${path} (${formatBytes(Buffer.byteLength(page))})`,
      ])
    })
}

/** @throws UserError for a file that is there and is no page: a run's records must not be lost to it */
async function checkPlace(path: string): Promise<void> {
  const head = await headOf(path, 64)
  if (head === null || /^\s*<!doctype html/i.test(head)) return
  throw new UserError(`${path} is there and is no HTML page: name another file with --output`)
}

/** The folders without the parents that all of them share. */
function labelsOf(dirs: readonly string[]): string[] {
  const paths = dirs.map((dir) => resolve(dir).split(sep))
  if (new Set(paths.map((path) => path.join(sep))).size < 2) return [...dirs]
  let shared = 0
  while (paths.every((path) => shared < path.length - 1 && path[shared] === paths[0]![shared])) {
    shared++
  }
  return paths.map((path) => path.slice(shared).join('/'))
}

const jsonOf = (run: RunData) =>
  Object.fromEntries(
    Object.entries(summaryOf(run)).map(([name, value]) => [
      name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`),
      value as unknown,
    ]),
  )
