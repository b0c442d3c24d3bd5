// The command about what runs have written down: report.

import { join, resolve } from 'node:path'
import { Command } from 'commander'
import type { ContextOf, Flags } from './cli-options.ts'
import { readRun, type RunData } from './records/report-data.ts'
import { reportPage } from './records/report-page.ts'
import { summaryOf } from './records/report-summary.ts'
import { formatBytes } from './units.ts'
import { writeTextAtomically } from './weights/atomic.ts'

export function reportCommand(contextOf: ContextOf): Command {
  return new Command('report')
    .description('one HTML page with the curves, times, memory and options of one or several runs')
    .argument('<runs...>', 'output folders of zo2 finetune')
    .option('-o, --output <file>', 'page to write (default: report.html in the first folder)')
    .action(async (dirs: string[], flags: Flags) => {
      const { result } = contextOf(flags)
      const runs: RunData[] = []
      for (const dir of dirs) runs.push(await readRun(dir))
      const path = (flags['output'] as string | undefined) ?? join(dirs[0]!, 'report.html')
      const page = reportPage(runs)
      await writeTextAtomically(path, page)
      result({ report: resolve(path), runs: runs.map(summaryOf) }, () => [
        `wrote ${path} (${formatBytes(Buffer.byteLength(page))})`,
      ])
    })
}
