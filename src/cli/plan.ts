// Commands about cost: plan (before anything is downloaded) and bench (measured).

import { Command } from 'commander'
import { bench, benchKernels, benchLines, kernelLines } from '../plan/bench.ts'
import { diskRate, ratesOf } from '../plan/rates.ts'
import { addOptions, configOf, type Context, type ContextOf, type Flags } from './flags.ts'
import { addSynthetic, sourceOf, SYNTHETIC } from './synthetic.ts'
import type { Config, OptionName } from '../config/options.ts'
import { UserError } from '../util/errors.ts'
import { METHOD_KEYS } from '../config/method.ts'
import { planReport, predictionReport, tierOf, type Planned } from '../plan/report.ts'
import { loadModel, openDevice } from '../engine/open.ts'
import { isSynthetic } from '../checkpoint/synthetic.ts'

const DEVICE: OptionName[] = ['device', 'adapter', 'transfer', 'memory', 'slab', 'resident', 'activationDtype', 'threads', 'scratchDir'] // prettier-ignore
const HUB: OptionName[] = ['revision', 'cacheDir']
const SHAPE: OptionName[] = [...METHOD_KEYS, 'steps', 'batchSize', 'maxLength', ...DEVICE, 'ram', ...HUB] // prettier-ignore

export function planCommands(contextOf: ContextOf): Command[] {
  return [planCommand(contextOf), benchCommand(contextOf)]
}

function planCommand(contextOf: ContextOf): Command {
  const command = new Command('plan')
    .description('device bytes, traffic and time of a step, before any weights are downloaded')
    .argument('[model]')
    .option('--calibrate', 'measure this machine anew')
  addSynthetic(command)
  addOptions(command, SHAPE)
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result } = contextOf(flags)
    const config = configOf(flags, [...SYNTHETIC, 'calibrate'])
    const planned = await planReport(sourceOf(model, flags), config, report)
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
      const rates = await ratesOf(device, { threads: config.threads, redo, announce })
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

function benchCommand(contextOf: ContextOf): Command {
  const command = new Command('bench')
    .description('steps on random tokens: device bytes by category, traffic and time of a step')
    .argument('[model]')
    .option('--tune', "no steps, but a WebGPU adapter's matmul kernels: measures them anew")
  addSynthetic(command)
  addOptions(command, SHAPE)
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const config = configOf(flags, [...SYNTHETIC, 'tune'])
    if (flags['tune'] === true) {
      if (model !== undefined || flags['synthetic'] !== undefined) {
        throw new UserError('--tune takes no model', { exitCode: 2 })
      }
      const tuned = await benchKernels(config)
      result(tuned, () => kernelLines(tuned))
      return
    }
    const source = sourceOf(model, flags)
    const steps = flags['steps'] === undefined ? 3 : config.steps
    const made = await bench(await loadModel(source, config, report), config, steps, report, stop)
    result(made, () => benchLines(made))
  })
}
