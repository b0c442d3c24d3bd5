// The command about cost before anything is downloaded: plan.
// Figures are src/plan/report.ts's.

import { Command } from 'commander'
import { isSynthetic } from '../checkpoint/synthetic.ts'
import type { Config } from '../config/options.ts'
import { openDevice } from '../engine/open.ts'
import { diskRate, ratesOf } from '../plan/rates.ts'
import { planReport, predictionReport, tierOf, type Planned } from '../plan/report.ts'
import { UserError } from '../util/errors.ts'
import {
  addOptions,
  configOf,
  sourceOf,
  type Context,
  type ContextOf,
  type Flags,
} from './flags.ts'

export function planCommand(contextOf: ContextOf): Command {
  const command = new Command('plan')
    .description('device bytes, traffic and time of a step, before any weights are downloaded')
    .argument('[model]')
    .option('--calibrate', 'measure this machine anew')
  addOptions(command, 'plan')
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result } = contextOf(flags)
    const config = configOf(flags, 'plan')
    const planned = await planReport(sourceOf(model, config), config, report)
    const time = await predicted(planned, config, flags['calibrate'] === true, report)
    result({ ...planned.json, ...time.json }, () => [...planned.lines, ...time.lines])
  })
}

/** The time of a step on this machine's device; where it has no such device, why not. */
async function predicted(
  planned: Planned,
  config: Config,
  redo: boolean,
  report: Context['report'],
) {
  try {
    const device = await openDevice(config)
    try {
      const announce = (busy: boolean) =>
        report.line(
          `measuring ${device.info.name}${busy ? ', which is busy: times will be rough' : ''}`,
        )
      const { threads, noise } = config
      const rates = await ratesOf(device, { threads, noise, redo, announce })
      const tier = tierOf(planned)
      const disk =
        tier === 'disk'
          ? await diskRate(
              planned.files.find((f) => !isSynthetic(f)),
              redo,
            )
          : Infinity
      return predictionReport(planned, rates, tier, disk)
    } finally {
      await device.close()
    }
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    const none = { step_ms: null, bound: null, break_even_batch: null, faster: null }
    return { json: none, lines: [`  no time: ${error.message}`] }
  }
}
