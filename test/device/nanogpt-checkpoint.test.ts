// nanoGPT's ckpt.pt: a real one (torch.save after torch.compile) in, ours out and in again, and
// refusals. That PyTorch reads ours is checked by scripts/check-nanogpt-checkpoint.py.
// Alone: npx vitest run test/device/nanogpt-checkpoint.test.ts

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { UserError } from '../../src/index.ts'
import { exportNanogpt, importNanogpt } from '../../src/checkpoint/torch/nanogpt.ts'
import { pickle, StoredTensor, Tuple } from '../../src/checkpoint/torch/pickle-writer.ts'
import { isTuple, unpickle } from '../../src/checkpoint/torch/pickle.ts'
import { devices, expectParity } from '../helpers/parity.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'
import { tempFolder } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const LAYOUT = join(FIXTURES, 'gpt/nanogpt-no-bias')
const folder = tempFolder()

const tensorsOf = (dir: string) => readSafetensors(readFileSync(join(dir, 'model.safetensors')))

describe("nanoGPT's checkpoint", () => {
  it.each(devices)('gives its own logits and losses on $name', async ({ name, options }) => {
    const dir = join(folder, name)
    const { config, iterNum, runConfig } = await importNanogpt(join(LAYOUT, 'ckpt.pt'), dir)
    const shape = { n_layer: 2, n_head: 2, n_embd: 16, block_size: 16, bias: false, vocab_size: 64 }
    expect(config).toEqual({ model_type: 'nanogpt', ...shape, dropout: 0 })
    expect(JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'))).toEqual(config)
    expect(iterNum).toBe(250)
    expect(runConfig['dataset']).toBe('shakespeare_char')
    expect(runConfig['learning_rate']).toBe(1e-3)
    expect(tensorsOf(dir).has('lm_head.weight')).toBe(false)
    await expectParity(LAYOUT, options, dir)
  })

  it('goes out and comes in again with the same bits', async () => {
    const first = join(folder, 'first')
    await importNanogpt(join(LAYOUT, 'ckpt.pt'), first)
    const path = join(folder, 'ckpt.pt')
    const runConfig = {
      dataset: 'shakespeare_char',
      learning_rate: 1e-4,
      compile: false,
      note: null,
    }
    await exportNanogpt(first, path, { iterNum: 70_000, bestValLoss: 1.25, runConfig })
    const second = join(folder, 'second')
    const back = await importNanogpt(path, second)
    expect(back.iterNum).toBe(70_000)
    expect(back.runConfig).toEqual(runConfig)
    expect(tensorsOf(second)).toEqual(tensorsOf(first))
    const before = readFileSync(path)
    await exportNanogpt(second, path, { iterNum: 70_000, bestValLoss: 1.25, runConfig })
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it('is refused when it is something else, and leaves nothing behind', async () => {
    const out = join(folder, 'none')
    const state = join(FIXTURES, 'layouts/bf16/pytorch_model.bin')
    await expect(importNanogpt(state, out)).rejects.toThrow(/model and model_args/)
    await expect(importNanogpt(join(LAYOUT, 'expected.json'), out)).rejects.toThrow(UserError)
    expect(existsSync(out)).toBe(false)
    const settings = { iterNum: 0, bestValLoss: 1, runConfig: {} }
    const opt = join(FIXTURES, 'layouts/bf16')
    const path = join(folder, 'opt.pt')
    await expect(exportNanogpt(opt, path, settings)).rejects.toThrow('model_type "nanogpt"')
    expect(existsSync(path)).toBe(false)
  })
})

describe('the pickle writer', () => {
  it('writes values that the reader reads', () => {
    const rules = {
      globals: new Map<string, ((args: readonly unknown[]) => unknown) | null>([
        ['torch.FloatStorage', null],
        ['collections.OrderedDict', () => new Map()],
        ['torch._utils._rebuild_tensor_v2', (args: readonly unknown[]) => ({ args })],
      ]),
      persistentLoad: (id: unknown) => (isTuple(id) ? id[2] : undefined),
    }
    const value = {
      ints: [0, 1, -1, 255, 65536, -(2 ** 31), 2 ** 31, 2 ** 53 - 1],
      floats: new Tuple([0.5, -1e-300, Infinity, 2 ** 60]),
      text: 'ü\n',
      flags: [true, false, null],
      state: new Map([['w', new StoredTensor('7', 'F32', [2, 3])]]),
      empty: {},
    }
    const read = unpickle(pickle(value), 'test', rules) as Map<string, unknown>
    expect(read.get('ints')).toEqual(value.ints)
    expect(read.get('floats')).toEqual(value.floats.items)
    expect(read.get('text')).toBe(value.text)
    expect(read.get('flags')).toEqual(value.flags)
    expect(read.get('empty')).toEqual(new Map())
    const tensor = (read.get('state') as Map<string, { args: unknown[] }>).get('w')!
    expect(tensor.args.slice(0, 5)).toEqual(['7', 0, [2, 3], [3, 1], false])
  })
})
