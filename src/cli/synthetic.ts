// --synthetic and --layers: flags of the commands that take OPT's shape in place of a checkpoint.

import type { Command } from 'commander'
import { ownFlag, type Flags } from './flags.ts'
import { UserError } from '../util/errors.ts'
import { count } from '../config/values.ts'
import { SYNTHETIC_SIZES, syntheticSource } from '../checkpoint/synthetic.ts'

/** Names for configOf: these flags are not in the option table. */
export const SYNTHETIC = ['synthetic', 'layers']

export function addSynthetic(command: Command): void {
  command
    .option(
      '--synthetic <size>',
      `no checkpoint, but OPT's shape of: ${SYNTHETIC_SIZES.join(', ')}`,
    )
    .option('--layers <n>', 'with --synthetic: that many layers of the full width')
}

/** The model that the command was given, as loadModel takes it. */
export function sourceOf(model: string | undefined, flags: Flags): string {
  const size = flags['synthetic'] as string | undefined
  if ((model === undefined) === (size === undefined)) {
    throw new UserError('expected either a model or --synthetic SIZE', { exitCode: 2 })
  }
  if (size === undefined) {
    if (flags['layers'] === undefined) return model!
    throw new UserError('--layers is for --synthetic', { exitCode: 2 })
  }
  const layers = flags['layers'] === undefined ? {} : { layers: ownFlag(flags, 'layers', count, 1) }
  return syntheticSource({ size, ...layers })
}
