// Commands about cost: plan (before anything is opened) and bench (measured).

import { Command } from 'commander'
import { bench, benchLines } from './bench.ts'
import { addOptions, configOf, ownFlag, type ContextOf, type Flags } from './cli-options.ts'
import type { OptionName } from './config.ts'
import { UserError } from './errors.ts'
import { METHOD_KEYS } from './method-options.ts'
import { count } from './option-values.ts'
import { planReport } from './plan-report.ts'
import { loadModel, syntheticModel } from './setup.ts'
import { SYNTHETIC_SIZES, syntheticSize } from './weights/synthetic.ts'

const DEVICE: OptionName[] = ['device', 'adapter', 'transfer', 'memory', 'slab', 'resident', 'threads', 'scratchDir'] // prettier-ignore
const HUB: OptionName[] = ['revision', 'cacheDir']

export function planCommands(contextOf: ContextOf): Command[] {
  return [planCommand(contextOf), benchCommand(contextOf)]
}

function planCommand(contextOf: ContextOf): Command {
  const command = new Command('plan')
    .description('device bytes, slabs and traffic of a run, before any weights are downloaded')
    .argument('[model]')
  addSynthetic(command)
  addOptions(command, [...METHOD_KEYS, 'steps', 'batchSize', 'maxLength', ...DEVICE, 'ram', ...HUB]) // prettier-ignore
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result } = contextOf(flags)
    const { source, layers } = sourceOf(model, flags)
    const planned = await planReport(source, configOf(flags, SYNTHETIC), report, layers)
    result(planned.json, () => planned.lines)
  })
}

function benchCommand(contextOf: ContextOf): Command {
  const command = new Command('bench')
    .description('steps on random tokens: device bytes by category, traffic and time of a step')
    .argument('[model]')
  addSynthetic(command)
  addOptions(command, [...METHOD_KEYS, 'steps', 'batchSize', 'maxLength', ...DEVICE, 'ram', ...HUB]) // prettier-ignore
  return command.action(async (model: string | undefined, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const { source, layers } = sourceOf(model, flags)
    const config = configOf(flags, SYNTHETIC)
    const steps = flags['steps'] === undefined ? 3 : config.steps
    const size = syntheticSize(source)
    const loaded =
      size === null ? await loadModel(source, config, report) : syntheticModel(source, size, layers)
    const made = await bench(loaded, config, steps, report, stop)
    result(made, () => benchLines(made))
  })
}

/** Flags of commands that take a synthetic model in place of a checkpoint. */
const SYNTHETIC = ['synthetic', 'layers']

function addSynthetic(command: Command): void {
  command
    .option(
      '--synthetic <size>',
      `no checkpoint, but OPT's shape of: ${SYNTHETIC_SIZES.join(', ')}`,
    )
    .option('--layers <n>', 'with --synthetic: that many layers of the full width')
}

function sourceOf(model: string | undefined, flags: Flags) {
  const size = flags['synthetic'] as string | undefined
  if ((model === undefined) === (size === undefined)) {
    throw new UserError('expected either a model or --synthetic SIZE', { exitCode: 2 })
  }
  if (size === undefined && flags['layers'] !== undefined) {
    throw new UserError('--layers is for --synthetic', { exitCode: 2 })
  }
  const layers = flags['layers'] === undefined ? undefined : ownFlag(flags, 'layers', count, 1)
  return { source: model ?? `synthetic:${size}`, layers }
}
