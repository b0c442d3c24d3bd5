// The options of `zo2 pretrain`, under nanoGPT's names.
// The run is src/train/pretrain.ts's.

import { z } from 'zod'
import type { OptionSpec } from '../spec.ts'
import { MOST_SEQUENCES, count, countAtMost, path, yesNo } from '../values.ts'

export const PRETRAIN_OPTIONS = {
  dataset: {
    group: 'data',
    value: 'dir',
    help: 'folder of zo2 prepare; a bare name means data/NAME, as in nanoGPT',
    schema: path,
    commands: ['pretrain'],
    trajectory: false,
  },
  initFrom: {
    group: 'data',
    value: 'source',
    help: "scratch, resume, gpt2 (gpt2-medium, ...), a model folder or hub id, or nanoGPT's ckpt.pt",
    schema: path,
    default: 'scratch',
    defaults: { sample: 'resume' },
    commands: ['pretrain', 'sample'],
    trajectory: false,
  },
  nLayer: {
    group: 'data',
    value: 'n',
    help: 'scratch: blocks (default: 12)',
    schema: count,
    commands: ['pretrain'],
    trajectory: false,
  },
  nHead: {
    group: 'data',
    value: 'n',
    help: 'scratch: attention heads (default: 12)',
    schema: count,
    commands: ['pretrain'],
    trajectory: false,
  },
  nEmbd: {
    group: 'data',
    value: 'n',
    help: 'scratch: hidden size, a multiple of the heads (default: 768)',
    schema: count,
    commands: ['pretrain'],
    trajectory: false,
  },
  bias: {
    group: 'data',
    value: 'yes|no',
    help: 'scratch: biases in linears and norms (default: no)',
    schema: yesNo,
    commands: ['pretrain'],
    trajectory: false,
  },
  dropout: {
    group: 'data',
    value: 'x',
    help: '0 is all there is: the probes of a step must see the same network',
    schema: z.preprocess(
      (value) => (typeof value === 'string' && value.trim() ? Number(value) : value),
      z.literal(
        0,
        'expected 0: the two probes of a step differ in their direction alone, which dropout would drown',
      ),
    ),
    commands: ['pretrain'],
    trajectory: true,
  },
  evalIters: {
    group: 'schedule',
    value: 'n',
    help: 'batches of train.bin and of val.bin in an evaluation, the same ones every time',
    schema: countAtMost(MOST_SEQUENCES),
    default: 200,
    commands: ['pretrain'],
    trajectory: false,
  },
  alwaysSaveCheckpoint: {
    group: 'output',
    value: 'yes|no',
    help: 'ckpt-<step>/ after every evaluation, not only when val.bin has its lowest loss so far',
    schema: yesNo,
    default: false,
    commands: ['pretrain'],
    trajectory: false,
  },
} as const satisfies Record<string, OptionSpec>
