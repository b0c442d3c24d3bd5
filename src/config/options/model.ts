// The options of a model without weights of its own, in place of a checkpoint.
// What they mean is src/checkpoint/init.ts's and src/checkpoint/synthetic.ts's.

import { SYNTHETIC_SIZES } from '../../checkpoint/sizes.ts'
import type { OptionSpec } from '../spec.ts'
import { count, text } from '../values.ts'

export const MODEL_OPTIONS = {
  synthetic: {
    group: 'model',
    value: 'size',
    help: `no checkpoint, but one of the true shape of: ${SYNTHETIC_SIZES.join(', ')}`,
    schema: text,
    commands: ['finetune', 'plan', 'bench', 'convert'],
    trajectory: false,
  },
  layers: {
    group: 'model',
    value: 'n',
    help: 'with --synthetic: that many layers of the full width',
    schema: count,
    commands: ['finetune', 'plan', 'bench', 'convert'],
    trajectory: false,
    needs: ['synthetic'],
  },
} as const satisfies Record<string, OptionSpec>
