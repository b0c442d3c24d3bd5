// Models written as GGUF and read again: the same program, the same numbers, the same tokenizer; what the format cannot
// say is refused. That other programs read the files is scripts/check-gguf.py's matter.
// Alone: npx vitest run test/unit/gguf-export.test.ts

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { Config } from '../../models/config.ts'
import { createModel } from '../../models/index.ts'
import type { Model } from '../../models/model.ts'
import { convertCheckpoint } from '../../src/checkpoint/convert.ts'
import { openFiles } from '../../src/checkpoint/files.ts'
import { ggufTokenizer } from '../../src/checkpoint/gguf/tokenizer.ts'
import { quantised } from '../../src/checkpoint/gguf/write.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import type { Checkpoint } from '../../src/checkpoint/types.ts'
import { loadGgufTokenizer } from '../../src/data/gguf-tokenizer.ts'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { findTensors } from '../../src/engine/tensors.ts'
import { exportGguf } from '../../src/export/gguf.ts'
import { convertElements } from '../../src/util/dtypes.ts'
import { decoderConfig as variant, writeHashed } from '../helpers/hashed.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))

const load = async (dir: string) => {
  const checkpoint = await openCheckpoint(dir)
  return { source: dir, dir, checkpoint, model: createModel(checkpoint.config) }
}

/** A folder of the config's model, written as GGUF and opened again. */
async function written(config: Config) {
  const dir = join(temporaryFolder(), 'model')
  await writeHashed(dir, config)
  const before = await load(dir)
  const folder = temporaryFolder()
  await exportGguf(before, join(folder, 'a.gguf'))
  return { before, after: await load(folder), folder }
}

/** All numbers of a model's tensors, by the model's names. */
async function numbers({ checkpoint, model }: { checkpoint: Checkpoint; model: Model }) {
  const files = await openFiles(checkpoint.files)
  const found = findTensors(model, checkpoint)
  const values = new Map<string, Buffer>()
  for (const entry of [...found.matrices.map((m) => m.entry), ...found.vectors]) {
    const bytes = new Uint8Array(entry.bytes)
    await files.read(entry, 0, bytes)
    values.set(entry.name, Buffer.from(convertElements(bytes, entry.dtype, 'F32')))
  }
  await files.close()
  return values
}

/** Of a program what files say, numbers that go through f32 rounded to it. */
const shapeOf = (model: Model): unknown =>
  JSON.parse(
    JSON.stringify({ ...model, ropes: undefined, modelType: undefined }, (_, value: unknown) =>
      typeof value === 'number' ? Math.fround(value) : value,
    ),
  )

const WRITTEN: readonly string[] = [
  ...['llama', 'llama-mha-defaults', 'llama3', 'llama3-v4', 'llama-linear', 'llama-yarn'],
  ...['smollm2', 'mistral-full', 'qwen2', 'qwen3', 'phi3', 'phi3-longrope'],
  ...['gemma', 'gemma2', 'gemma3_text', 'gemma3_text-v5'],
]

describe('a model written as GGUF', () => {
  it.each(WRITTEN)('of %s is the same when it is read', async (name) => {
    // As the format means it: the head's size.
    const changes = /^gemma[23]/.test(name) && { query_pre_attn_scalar: 16 }
    const { before, after } = await written({ ...variant(name), ...changes })
    expect(shapeOf(after.model)).toEqual(shapeOf(before.model))
    const gemma = name.startsWith('gemma')
    const own = await numbers(before)
    for (const [tensor, values] of await numbers(after)) {
      if (!gemma || !tensor.includes('norm'))
        expect(values.equals(own.get(tensor)!), tensor).toBe(true)
      else {
        // 1 was added and taken away.
        const [a, b] = [values, own.get(tensor)!].map(
          (v) => new Float32Array(new Uint8Array(v).buffer),
        )
        a!.forEach((value, i) => expect(value).toBeCloseTo(b![i]!, 6))
      }
    }
    const [ropes, expected] = [after.model.ropes!, before.model.ropes!]
    expect(ropes.length).toBe(expected.length)
    ropes.forEach(({ frequencies, long, factor }, i) => {
      const { frequencies: f, long: l, factor: by } = expected[i]!
      expect(factor).toBeCloseTo(by, 6)
      frequencies.forEach((value, j) => expect(value / f[j]!).toBeCloseTo(1, 5))
      if (l) long!.frequencies.forEach((v, j) => expect(v / l.frequencies[j]!).toBeCloseTo(1, 5))
    })
  })

  it('of GPT-2 is the same when it is read', async () => {
    const dir = join(FIXTURES, 'gpt/gpt2-hub')
    const folder = temporaryFolder()
    const before = await load(dir)
    await exportGguf(before, join(folder, 'a.gguf'))
    const after = await load(folder)
    expect(shapeOf(after.model)).toEqual(shapeOf(before.model))
    const own = await numbers(before)
    for (const [name, values] of await numbers(after)) {
      expect(values.equals(own.get(name)!), name).toBe(true)
    }
  })

  it('holds texts no longer than the window of a Mistral', async () => {
    const { after } = await written(variant('mistral'))
    expect([after.model.modelType, after.model.maxPositions]).toEqual(['llama', 5])
  })

  it.each<[string, object, RegExp]>([
    ['smollm3', {}, /model_type smollm3 cannot be written/],
    ['gemma2', {}, /scores are scaled by/],
    ['qwen2-window', {}, /layers have windows/],
    ['llama-yarn-mscale', {}, /yarn with beta_fast/],
    ['llama', { hidden_act: 'gelu' }, /activation is gelu and not silu/],
  ])('of %s %o is refused', async (name, changes, expected) => {
    await expect(written({ ...variant(name), ...changes })).rejects.toThrow(expected)
  })

  it('keeps f16 bit by bit', async () => {
    const dir = join(temporaryFolder(), 'model')
    await writeHashed(dir, variant('smollm2'))
    const [half, gguf, back] = ['half', 'gguf', 'back'].map((name) => join(temporaryFolder(), name))
    await convertCheckpoint(dir, half!, { dtype: 'F16' })
    mkdirSync(gguf!)
    await exportGguf(await load(half!), join(gguf!, 'a.gguf'))
    await convertCheckpoint(gguf!, back!, { dtype: 'F16' })
    const [before, after] = [await load(half!), await load(back!)]
    const types = [...after.checkpoint.tensors.values()].map(({ dtype }) => dtype)
    expect(new Set(types)).toEqual(new Set(['F16']))
    // Every f16 has an f32 of its own.
    expect(await numbers(after)).toEqual(await numbers(before))
    expect((await openCheckpoint(gguf!)).config['torch_dtype']).toBe('float16')
  })

  it('has blocks of q8_0 as the gguf package makes them, and f16 where rows are no blocks', async () => {
    const text = readFileSync(join(FIXTURES, 'gguf/expected.json'), 'utf8')
    const { q8_0 } = JSON.parse(text) as { q8_0: { values: string; raw: string } }
    const made = quantised(new Uint8Array(Buffer.from(q8_0.values, 'base64')))
    expect(Buffer.from(made).equals(Buffer.from(q8_0.raw, 'base64'))).toBe(true)
    const dir = join(temporaryFolder(), 'model')
    await writeHashed(dir, { ...variant('llama'), hidden_size: 96 })
    const folder = temporaryFolder()
    await exportGguf(await load(dir), join(folder, 'a.gguf'), { type: 'Q8_0' })
    const { tensors } = await openCheckpoint(folder)
    const typeOf = (name: string) => {
      const { encoding, dtype } = tensors.get(`model.layers.0.mlp.${name}.weight`)!
      return encoding?.type ?? dtype
    }
    expect([typeOf('up_proj'), typeOf('down_proj')]).toEqual(['Q8_0', 'F16'])
  })

  it('leaves nothing of a file that cannot be written', async () => {
    const dir = join(temporaryFolder(), 'model')
    await writeHashed(dir, variant('llama'))
    const folder = temporaryFolder()
    const loaded = await load(dir)
    const out = join(folder, 'a.gguf')
    const onProgress = (done: number, total: number) => {
      if (done > total / 2) throw new Error('stopped')
    }
    await expect(exportGguf(loaded, out, { onProgress })).rejects.toThrow('stopped')
    expect(readdirSync(folder)).toEqual([])
  })
})

describe('the tokenizer of a model written as GGUF', () => {
  it('of GPT-2 gives the same ids', async () => {
    const dir = join(FIXTURES, 'small-opt')
    const model = join(temporaryFolder(), 'model')
    const config = { model_type: 'gpt2', n_embd: 8, n_layer: 1, n_head: 1, n_positions: 8 }
    await writeHashed(model, { ...config, vocab_size: 4099 })
    const names = ['merges.txt', 'tokenizer_config.json', 'special_tokens_map.json', 'vocab.json']
    for (const name of names.filter((name) => readdirSync(dir).includes(name))) {
      writeFileSync(join(model, name), readFileSync(join(dir, name)))
    }
    const folder = temporaryFolder()
    await exportGguf(await load(model), join(folder, 'a.gguf'))
    const own = await loadTokenizer(model)
    const read = loadGgufTokenizer(await openCheckpoint(folder))
    for (const text of ['Hello world', 'In 1984, naïve café — 日本語', '  two\n\nlines</s>']) {
      expect(read.encode(text, { bos: false })).toEqual(own.encode(text, { bos: false }))
    }
    expect([read.bosId, read.eosId]).toEqual([own.bosId, own.eosId])
    expect(read.vocabSize).toBe(4099)
  })

  it('of other kinds is the object that it was', async () => {
    const fixtures = join(FIXTURES, 'gguf')
    for (const pre of ['smollm', 'llama-bpe', 'qwen2', 'gpt-2', null]) {
      const given = await openCheckpoint(fixtures, pre === null ? 'llama.gguf' : 'gpt2.gguf')
      const { gguf, files } = given
      const changed = new Map([
        ...gguf!,
        ...(pre === null ? [] : [['tokenizer.ggml.pre', pre] as const]),
      ])
      const made = ggufTokenizer(files[0]!, changed)
      const model = join(temporaryFolder(), 'model')
      await writeHashed(model, { ...variant('llama'), vocab_size: 40 })
      writeFileSync(join(model, 'tokenizer.json'), JSON.stringify(made.tokenizer))
      writeFileSync(join(model, 'tokenizer_config.json'), JSON.stringify(made.settings))
      const folder = temporaryFolder()
      await exportGguf(await load(model), join(folder, 'a.gguf'))
      const after = await openCheckpoint(folder)
      const again = ggufTokenizer(after.files[0]!, after.gguf!)
      expect(again.tokenizer, String(pre)).toEqual(made.tokenizer)
      expect(again.settings, String(pre)).toEqual(made.settings)
      expect(again.ends, String(pre)).toEqual(made.ends)
    }
  })
})
