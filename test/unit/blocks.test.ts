// Every block of every model type is known by its tensors' names: a block that selection.ts took for none
// would be perturbed at every step with --layers-per-step, and would not part the probes where all before it
// is frozen.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { blockOf } from '../../src/methods/selection.ts'
import { ROOT } from '../helpers/cli.ts'

it.each(['tiny-opt', 'layouts/post-norm-proj', 'gpt/gpt2-hub', 'gpt/nanogpt'])(
  'the names of %s tell each block, and what is outside of all',
  (fixture) => {
    const path = join(ROOT, 'test/fixtures', fixture, 'config.json')
    const model = createModel(JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>)
    const blocks = (list: readonly { name: string }[]) =>
      [...new Set(list.map(({ name }) => blockOf(name)))].filter((block) => block >= 0)
    const all = Array.from({ length: model.layers }, (_, i) => i)
    expect(blocks(model.matrices)).toEqual(all)
    expect(blocks(model.vectors)).toEqual(all)
    expect(blocks(model.tables)).toEqual([])
  },
)
