// Every block of every model type is known by its tensors' names: a block that selection.ts took for none
// would be perturbed at every step with --layers-per-step, and would not part the probes where all before it
// is frozen.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { DECODER_VARIANTS, decoderConfig } from '../helpers/hashed.ts'
import { blockOf } from '../../src/methods/selection.ts'
import { ROOT } from '../helpers/cli.ts'

const folders = ['tiny-opt', 'layouts/post-norm-proj', 'gpt/gpt2-hub', 'gpt/nanogpt'].map(
  (name) => {
    const path = join(ROOT, 'test/fixtures', name, 'config.json')
    return [name, JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>] as const
  },
)
const decoders = DECODER_VARIANTS.map((name) => [name, decoderConfig(name)] as const)

it.each([...folders, ...decoders])(
  'the names of %s tell each block, and what is outside of all',
  (_name, config) => {
    const model = createModel(config)
    const blocks = (list: readonly { name: string }[]) =>
      [...new Set(list.map(({ name }) => blockOf(name)))].filter((block) => block >= 0)
    const all = Array.from({ length: model.layers }, (_, i) => i)
    expect(blocks(model.matrices)).toEqual(all)
    expect(blocks(model.vectors)).toEqual(all)
    expect(blocks(model.tables)).toEqual([])
  },
)
