// The command about cost, measured: bench.
// Measuring is src/plan/bench.ts's.

import { Command } from 'commander'
import { loadModel } from '../engine/load.ts'
import { bench, benchKernels, benchLines, kernelLines } from '../plan/bench.ts'
import { UserError } from '../util/errors.ts'
import { addOptions, configOf, sourceOf, type ContextOf, type Flags } from './flags.ts'

export function benchCommand(contextOf: ContextOf): Command {
  const command = new Command('bench')
    .description('steps on random tokens: device bytes by category, traffic and time of a step')
    .argument('[model]')
    .option('--tune', "no steps, but a WebGPU adapter's matmul kernels: measures them anew")
  addOptions(command, 'bench')
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const config = configOf(flags, 'bench')
    if (flags['tune'] === true) {
      if (model !== undefined || config.synthetic !== undefined) {
        throw new UserError('--tune takes no model', { exitCode: 2 })
      }
      const tuned = await benchKernels(config)
      result(tuned, () => kernelLines(tuned))
      return
    }
    const loaded = await loadModel(sourceOf(model, config), config, report)
    const made = await bench(loaded, config, report, stop)
    result(made, () => benchLines(made))
  })
}
