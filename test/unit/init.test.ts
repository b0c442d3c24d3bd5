// Models from scratch: their sizes, the scheme of their weights, their repeatability. Where their loss
// starts: test/device/initial-loss.test.ts.
// Alone: npx vitest run test/unit/init.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { nanogptConfig } from '../../models/presets.ts'
import { fillNormal, writeInitialModel } from '../../src/checkpoint/init.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { temporaryFolder } from '../helpers/hostile.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'

const folder = temporaryFolder()
const SMALL = { n_layer: 2, n_head: 4, n_embd: 64, block_size: 32, vocab_size: 65 }

/** Layers, heads and hidden size of gpt2, gpt2-medium, gpt2-large and gpt2-xl. */
const RELEASED = [
  [12, 12, 768],
  [24, 16, 1024],
  [36, 20, 1280],
  [48, 25, 1600],
] as const

/** config.json of a GPT-2 as `transformers` writes it. */
const gpt2Config = ({ block_size, ...shape }: typeof SMALL) => ({
  ...shape,
  model_type: 'gpt2',
  architectures: ['GPT2LMHeadModel'],
  n_positions: block_size,
  n_inner: null,
  activation_function: 'gelu_new',
  layer_norm_epsilon: 1e-5,
  tie_word_embeddings: true,
})

/** Mean and standard deviation. */
function moments(values: Float32Array): [number, number] {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length
  return [mean, Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length)]
}

const tensorsOf = (dir: string) => readSafetensors(readFileSync(join(dir, 'model.safetensors')))

async function written(name: string, config: Record<string, unknown>, seed: number) {
  const dir = join(folder, name)
  await writeInitialModel(dir, config, createModel(config), { seed })
  return dir
}

describe('a model from scratch', () => {
  it('has the released sizes', () => {
    const parameters = RELEASED.map(([n_layer, n_head, n_embd]) => {
      const shape = { n_layer, n_head, n_embd, block_size: 1024, vocab_size: 50257 }
      const model = createModel(gpt2Config(shape))
      const tensors = new Map([...model.tables, ...model.matrices].map((m) => [m.name, m]))
      const matrices = [...tensors.values()].reduce((sum, m) => sum + m.rows * m.cols, 0)
      return model.vectors.reduce((sum, v) => sum + v.size, matrices)
    })
    // GPT2LMHeadModel.num_parameters() of gpt2, gpt2-medium, gpt2-large, gpt2-xl
    expect(parameters).toEqual([124439808, 354823168, 774030080, 1557611200])
  })

  it.each([
    ['nanogpt', nanogptConfig({ ...SMALL, bias: true })],
    ['gpt2', gpt2Config(SMALL)],
  ])('follows the scheme in the %s layout, a function of the seed', async (name, config) => {
    const [dir, again, other] = [
      await written(name, config, 7),
      await written(`${name}-again`, config, 7),
      await written(`${name}-other`, config, 8),
    ]
    const tensors = tensorsOf(dir)
    const model = createModel(config)
    for (const { name: vector } of model.vectors) {
      const value = vector.endsWith('.bias') ? 0 : 1
      expect(tensors.get(vector)!.values.every((v) => v === value)).toBe(true)
    }
    for (const { name: matrix } of [...model.tables, ...model.matrices]) {
      const [mean, std] = moments(tensors.get(matrix)!.values)
      const expected = matrix.endsWith('c_proj.weight') ? 0.02 / Math.sqrt(4) : 0.02
      expect(Math.abs(mean)).toBeLessThan(expected * 0.1)
      expect(Math.abs(std / expected - 1)).toBeLessThan(0.05)
    }
    expect(tensorsOf(again)).toEqual(tensors)
    const c = 'transformer.h.0.mlp.c_fc.weight'
    expect(tensorsOf(other).get(c)).not.toEqual(tensors.get(c))
  })

  it('draws normal numbers that do not depend on how a tensor is cut', () => {
    const key = noiseKey(3, 0, 'w', 'init')
    const whole = new Float32Array(100_001)
    fillNormal(whole, key, 0, 1)
    const part = new Float32Array(501)
    fillNormal(part, key, 5000, 1)
    expect(part).toEqual(whole.slice(5000, 5501))
    const [mean, std] = moments(whole)
    expect(Math.abs(mean)).toBeLessThan(0.01)
    expect(Math.abs(std - 1)).toBeLessThan(0.01)
    // the share beyond two standard deviations, 4.55 %, tells a normal number from a binomial one
    const tail = whole.filter((v) => Math.abs(v) > 2).length / whole.length
    expect(Math.abs(tail - 0.0455)).toBeLessThan(0.003)
  })
})
