// Where the loss of a model from scratch starts: at that of guessing.
// Alone: npx vitest run test/device/initial-loss.test.ts

import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { nanogptConfig } from '../../models/presets.ts'
import { writeInitialModel } from '../../src/checkpoint/init.ts'
import { fromPretrained } from '../../src/index.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const CONFIG = nanogptConfig({ n_layer: 2, n_head: 4, n_embd: 64, block_size: 32, vocab_size: 65 })
const dir = join(temporaryFolder(), 'start')

describe('a model from scratch', () => {
  it('starts at the loss of guessing', async () => {
    await writeInitialModel(dir, CONFIG, createModel(CONFIG), { seed: 1337 })
    const model = await fromPretrained(dir, { device: 'cpu' })
    try {
      const inputIds = Array.from({ length: 8 }, (_, b) =>
        Array.from({ length: 32 }, (_, t) => (b * 31 + t * 17 + b * t) % 65),
      )
      const { loss } = await model.forward({ inputIds, labels: inputIds })
      expect(Math.abs(loss - Math.log(65))).toBeLessThan(0.1)
    } finally {
      await model.close()
    }
  })
})
