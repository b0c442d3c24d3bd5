// Model folders as people have them: a weights file given by name, more tensors than config.json means,
// adapters, bare names, odd settings. Each is used as it is meant, or refused in one sentence.
// Alone: npx vitest run test/unit/model-folders.test.ts

import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createModel } from '../../models/index.ts'
import { setConfigDtype } from '../../src/checkpoint/convert.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { parseConfig } from '../../src/config/options.ts'
import { tokenizerOf } from '../../src/data/model-tokenizer.ts'
import { loadModel } from '../../src/engine/load.ts'
import { methodOf } from '../../src/engine/method.ts'
import { resolveModel } from '../../src/hub/resolve.ts'
import { editSafetensors } from '../helpers/edit-safetensors.ts'
import { FIXTURES, folder, GPT2, OPT, root, sentence, type Files } from '../helpers/model-copies.ts'

const configOf = (dir: string) =>
  JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>
const changed = (source: string, change: object): Files => ({
  'config.json': { ...configOf(source), ...change },
})

/** Loads a model; what is said beside it. */
async function load(source: string) {
  const said: string[] = []
  const line = (text: string) => void said.push(text)
  const loaded = await loadModel(source, parseConfig({}), { line, live: () => {}, clear: () => {} })
  return { ...loaded, said }
}

afterEach(() => vi.unstubAllEnvs())

describe('a weights file given as the model', () => {
  it('is the one that is read', async () => {
    const dir = folder(OPT)
    const epoch = join(dir, 'epoch3.safetensors')
    cpSync(join(dir, 'model.safetensors'), epoch)
    editSafetensors(epoch, () => new Float32Array([42]))
    for (const file of [epoch, join(dir, 'pytorch_model.bin')]) {
      const { checkpoint, dir: home } = await load(file)
      expect(checkpoint.files).toEqual([file])
      expect(home).toBe(dir)
    }
    expect((await load(dir)).checkpoint.files).toEqual([join(dir, 'model.safetensors')])
  })

  it('may be the index of shards, and is no single one of them', async () => {
    const dir = folder(join(FIXTURES, 'layouts/sharded-safetensors'))
    cpSync(join(OPT, 'model.safetensors'), join(dir, 'model.safetensors'))
    const { checkpoint } = await load(join(dir, 'model.safetensors.index.json'))
    expect(checkpoint.files).toHaveLength(3)
    const shard = checkpoint.files[0]!
    expect(await sentence(() => load(shard))).toMatch(/is one of several shards .* name the folder/)
  })

  it('needs config.json beside it, and a name that says what it is', async () => {
    const dir = folder(OPT, { 'config.json': null, 'notes.txt': 'x' })
    const file = join(dir, 'model.safetensors')
    expect(await sentence(() => load(file))).toMatch(/with config.json, found no such file/)
    expect(await sentence(() => load(join(dir, 'notes.txt')))).toMatch(/is a file, and a model is/)
    const adapter = join(dir, 'adapter_model.safetensors')
    cpSync(file, adapter)
    writeFileSync(join(dir, 'config.json'), '{"model_type":"opt"}')
    expect(await sentence(() => load(adapter))).toMatch(/this is a PEFT adapter and no whole model/)
  })
})

describe('tensors that the model of config.json does not have', () => {
  it('are told in one line: further layers, biases that are not to be', async () => {
    const layers = await load(folder(OPT, changed(OPT, { num_hidden_layers: 1 })))
    expect(layers.said).toHaveLength(1)
    expect(layers.said[0]).toMatch(
      / holds tensors that the model of its config\.json does not use: model/,
    )
    expect(layers.said[0]).toMatch(/model\.decoder\.layers\.1\.\S+, .* and \d+ more$/)
    const biases = await load(folder(OPT, changed(OPT, { enable_bias: false })))
    expect(biases.said.join()).toMatch(/proj\.bias, /)
    expect((await load(OPT)).said).toEqual([])
  })

  it('are not masks and tied heads, but are heads that differ from the table they are tied to', async () => {
    expect((await load(GPT2)).said).toEqual([])
    expect((await load(join(FIXTURES, 'tiny-opt/pytorch_model.bin'))).said).toEqual([])
    const untied = join(FIXTURES, 'gpt/gpt2-untied')
    expect((await load(untied)).said).toEqual([])
    const tied = await load(folder(untied, changed(untied, { tie_word_embeddings: true })))
    expect(tied.said.join()).toMatch(/does not use: lm_head\.weight$/)
  })

  it('may be of any type: only those that are used must be floats', async () => {
    const dir = folder(OPT)
    const file = join(dir, 'model.safetensors')
    editSafetensors(file, undefined, { 'position_ids.x': { dtype: 'I64', bytes: 16, shape: [2] } })
    const { said, checkpoint } = await load(dir)
    expect(checkpoint.others!.get('position_ids.x')).toBe('I64')
    expect(said.join()).toMatch(/does not use: position_ids\.x$/)
    const first = [...checkpoint.tensors.keys()].find((name) => name.endsWith('fc1.weight'))!
    editSafetensors(file, undefined, {}, (name) => (name === first ? 'I32' : undefined))
    const { model, checkpoint: spoilt } = await load(dir)
    const { findTensors } = await import('../../src/engine/tensors.ts')
    expect(await sentence(() => findTensors(model, spoilt))).toMatch(
      /expected "model\.decoder\.layers\.0\.fc1\.weight" to be F32, F16 or BF16, found I32/,
    )
  })
})

describe('a folder that is no model', () => {
  const adapter = { peft_type: 'LORA', base_model_name_or_path: 'facebook/opt-125m' }

  it('but an adapter says so, with its base', async () => {
    for (const files of [{ 'config.json': null }, { 'model.safetensors': null }]) {
      const bare = folder(OPT, {
        ...files,
        'pytorch_model.bin': null,
        'adapter_config.json': adapter,
      })
      expect(await sentence(() => load(bare))).toMatch(
        /this is a PEFT adapter and no whole model; give its base model \("facebook\/opt-125m"\), or merge/,
      )
    }
    const both = folder(OPT, { 'adapter_config.json': adapter })
    expect((await load(both)).model.layers).toBeGreaterThan(0)
    const deep = { 'config.json': null, 'adapter_config.json': `{"a":${'['.repeat(20_000)}` }
    expect(await sentence(() => load(folder(OPT, deep)))).toMatch(/more than 100 deep/)
  })

  it('but an empty one says that it hides a hub id', async () => {
    const home = mkdtempSync(join(root, 'cwd-'))
    mkdirSync(join(home, 'facebook/opt-125m'), { recursive: true })
    const before = process.cwd()
    process.chdir(home)
    try {
      expect(await sentence(() => resolveModel('facebook/opt-125m'))).toMatch(
        /opt-125m is an empty folder, and hides the model of that name on the hub: remove it, or name/,
      )
    } finally {
      process.chdir(before)
    }
    expect(await sentence(() => resolveModel(home.replace('cwd-', 'none-')))).toMatch(/neither/)
    mkdirSync(join(home, 'empty'))
    expect(await sentence(() => resolveModel(join(home, 'empty')))).toMatch(
      /is an empty folder: name/,
    )
  })

  it('nor a hub id, but a bare name: its full id is told', async () => {
    for (const [name, id] of [
      ['gpt2', 'openai-community/gpt2'],
      ['gpt2-medium', 'openai-community/gpt2-medium'],
      ['distilgpt2', 'distilbert/distilgpt2'],
      ['opt-1.3b', 'facebook/opt-1.3b'],
    ]) {
      expect(await sentence(() => resolveModel(name!))).toContain(`the hub has it as ${id}`)
    }
    expect(await sentence(() => resolveModel('gpt3'))).toMatch(/owner\/name: correct it$/)
  })
})

describe('config.json', () => {
  it.each<[string, object, RegExp]>([
    [
      'a flag that is none',
      { tie_word_embeddings: 'yes' },
      /tie_word_embeddings must be true or false, found "yes"/,
    ],
    [
      'more layers than lists can have',
      { num_hidden_layers: 1e9 },
      /num_hidden_layers must be at most 4096/,
    ],
    [
      'an infinite size',
      { vocab_size: '1e999' },
      /vocab_size must be a positive integer, found "1e999"/,
    ],
    [
      'a list for a size',
      { hidden_size: Array.from({ length: 5000 }, () => 1) },
      /found \[1,1,.*\.\.\.; is this/,
    ],
    [
      'a model_type of another kind',
      { model_type: { a: 'b\n' } },
      /model_type an object is not supported/,
    ],
    [
      'an unprintable model_type',
      { model_type: 'o\u001b[31mpt' },
      /model_type "o\\u001b\[31mpt" is not/,
    ],
    [
      'an unprintable activation',
      { activation_function: 'x\n'.repeat(99) },
      /activation_function "x\\nx/,
    ],
  ])('with %s is refused in one sentence', async (_, change, message) => {
    const dir = folder(OPT, changed(OPT, change))
    expect(await sentence(async () => createModel((await openCheckpoint(dir)).config))).toMatch(
      message,
    )
  })

  it('nested 20,000 deep is refused in one sentence', async () => {
    const dir = folder(OPT, { 'config.json': `{"model_type":"opt","x":${'{"a":'.repeat(20_000)}` })
    expect(await sentence(() => load(dir))).toMatch(/config.json: .* more than 100 deep; download/)
    const index = folder(OPT, {
      'model.safetensors.index.json': `{"weight_map":${'['.repeat(20_000)}`,
    })
    const path = join(index, 'model.safetensors.index.json')
    expect(await sentence(() => load(path))).toMatch(/index.json: .* more than 100 deep/)
  })

  it('keeps the dtype under every name that it has', async () => {
    for (const [before, after] of [
      [{ torch_dtype: 'float32' }, { torch_dtype: 'bfloat16' }],
      [{ dtype: 'float32' }, { dtype: 'bfloat16' }],
      [
        { dtype: 'float32', torch_dtype: 'float16' },
        { dtype: 'bfloat16', torch_dtype: 'bfloat16' },
      ],
      [{}, { torch_dtype: 'bfloat16' }],
    ]) {
      const dir = folder(OPT, { 'config.json': before! })
      await setConfigDtype(dir, 'BF16')
      expect(configOf(dir)).toEqual(after)
    }
  })
})

describe('globs of tensors', () => {
  const all = { method: 'mezo-sgd' }
  const selected = async (options: object) => {
    const { model } = await load(OPT)
    return methodOf(parseConfig({ ...all, ...options }), model)
  }

  it('that match nothing are refused beside one that does', async () => {
    const chosen = await selected({ trainOnly: ['*fc1*', '*fc2*'], freeze: ['*layers.0.*'] })
    const { selection } = chosen.methodOptions
    expect(selection.trains('model.decoder.layers.1.fc1.weight')).toBe(true)
    expect(await sentence(() => selected({ trainOnly: ['*fc1*', '*mlp*'] }))).toMatch(
      /^--train-only \*mlp\*: no tensor of this model has such a name; its names are model\.decoder/,
    )
    expect(await sentence(() => selected({ freeze: ['*fc1*', 'fc2'] }))).toMatch(
      /^--freeze fc2: no/,
    )
  })
})

describe('what ends a generated text', () => {
  const ends = async (files: Files) => {
    const dir = folder(join(FIXTURES, 'tiny-opt'), files)
    const model = createModel((await openCheckpoint(dir)).config)
    const { eosId, eosIds } = await tokenizerOf({ dir, model })
    return { eosId, eosIds }
  }

  it('is every id that generation_config.json lists, else that of config.json or the tokenizer', async () => {
    const list = { eos_token_id: [50, 2, 7] }
    expect(await ends({ 'generation_config.json': list })).toEqual({ eosId: 2, eosIds: [50, 2, 7] })
    expect((await ends({ 'generation_config.json': { eos_token_id: 9 } })).eosIds).toEqual([9])
    const tiny = join(FIXTURES, 'tiny-opt')
    const none = { 'generation_config.json': null }
    expect((await ends({ ...none, ...changed(tiny, { eos_token_id: [4, 5] }) })).eosIds).toEqual([
      4, 5,
    ])
    expect((await ends({ ...none, ...changed(tiny, { eos_token_id: null }) })).eosIds).toEqual([2])
    for (const wrong of ['2', [2, '7'], {}, 1.5]) {
      const files = { 'generation_config.json': { eos_token_id: wrong } }
      expect(await sentence(() => ends(files))).toMatch(/eos_token_id must be a token id or a list/)
    }
    const deep = { 'generation_config.json': '['.repeat(20_000) }
    expect(await sentence(() => ends(deep))).toMatch(/more than 100 deep/)
  })
})
