// What `transformers` makes of every activation of every model type that can choose one.
// Expected numbers come from scripts/make-edge-expectations.py; see test/fixtures/README.md.
// Alone: npx vitest run test/device/edges.test.ts

import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { devices, expectBatch, openOn, type Expected } from '../helpers/parity.ts'
import { tempFolder } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const home = tempFolder()

interface Edge extends Expected {
  /** Folder below test/fixtures. */
  readonly model: string
  readonly activation_function: string
}
const { batches } = JSON.parse(readFileSync(join(FIXTURES, 'edges.json'), 'utf8')) as {
  readonly batches: readonly Edge[]
}

/** A copy of the model's folder with another activation. */
function folderOf({ model, activation_function: activation }: Edge): string {
  const dir = join(FIXTURES, model)
  const copy = join(home, `${model.replace('/', '-')}-${activation}`)
  cpSync(dir, copy, { recursive: true })
  const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as object
  const changed = { ...config, activation_function: activation }
  writeFileSync(join(copy, 'config.json'), JSON.stringify(changed))
  return copy
}

describe.each(devices)('$name', ({ options }) => {
  it.each(batches)('gives the logits and loss of transformers for $name', async (edge) => {
    const model = await openOn(folderOf(edge), options)
    try {
      await expectBatch(model, edge)
    } finally {
      await model.close()
    }
  })
})

it('the expectations hold every activation of both model types', () => {
  const known = ['relu', 'gelu', 'gelu_new', 'gelu_pytorch_tanh']
  for (const model of ['layouts/pre-norm-tied', 'gpt/gpt2-hub']) {
    const chosen = batches.filter((edge) => edge.model === model)
    expect(chosen.map((edge) => edge.activation_function)).toEqual(known)
  }
})
