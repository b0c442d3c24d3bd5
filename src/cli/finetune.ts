// The command that trains on examples: finetune.
// The run is src/train/finetune.ts's, options are src/config's.

import { Command } from 'commander'
import { finetune } from '../train/finetune.ts'
import type { RunSummary } from '../train/run.ts'
import { formatSeconds } from '../util/console.ts'
import { formatBytes } from '../util/units.ts'
import { addOptions, configOf, snakeCase, sourceOf, type ContextOf, type Flags } from './flags.ts'

export function finetuneCommand(contextOf: ContextOf): Command {
  const command = new Command('finetune')
    .description('fine-tune a model; MODEL is a folder or a hub id')
    .argument('[model]')
  addOptions(command, 'finetune')
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const started = performance.now()
    // Nobody wants model/ of a synthetic model unless it is asked for.
    const given = flags['synthetic'] === undefined ? flags : { saveModel: 'no', ...flags }
    const config = configOf(given, 'finetune')
    const summary = await finetune(sourceOf(model, config), config, report, stop)
    const seconds = (performance.now() - started) / 1000
    result(summaryJson(summary, seconds), () => [
      summaryLine(summary, seconds),
      resultLine(summary, config.prefixTokens === undefined ? 'model' : 'adapter'),
    ])
  })
}

export const summaryJson = (summary: RunSummary, seconds: number) => ({
  ...snakeCase(summary),
  model_step: summary.modelDir === null ? null : summary.modelStep,
  seconds,
})

/** What a run came to, in one line. */
export function summaryLine(summary: RunSummary, seconds: number): string {
  const { stopped, stoppedEarly, steps } = summary
  return [
    `${stopped ? 'stopped' : stoppedEarly ? 'stopped early' : 'done'} after ${steps} steps in ${formatSeconds(seconds)}`,
    `device peak ${formatBytes(summary.devicePeakBytes)} (planned ${formatBytes(summary.plannedPeakBytes)})`,
    `process peak ${formatBytes(summary.rssPeakBytes)}`,
  ].join('  ')
}

/** Where its model is, or how to get it. */
function resultLine(summary: RunSummary, what: 'model' | 'adapter'): string {
  const { modelDir, modelStep, steps, stopped, outputDir } = summary
  if (modelDir === null) {
    return `${stopped ? 'continue with --resume; ' : ''}write the model with: zo2 export ${outputDir} OUT`
  }
  return `${what}: ${modelDir}${modelStep === steps ? '' : ` (weights of step ${modelStep}, the best)`}`
}
