// GGUF files read as checkpoints: blocks of every type and small models against what the `gguf` package reads from them
// (test/fixtures/gguf), whatever range of a tensor is asked for and whichever thread reads it.
// Alone: npx vitest run test/unit/gguf.test.ts

import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { openFiles } from '../../src/checkpoint/files.ts'
import { decodeBlocks } from '../../src/checkpoint/gguf/decode.ts'
import { readGgufHeader } from '../../src/checkpoint/gguf/header.ts'
import { ggufTokenizer } from '../../src/checkpoint/gguf/tokenizer.ts'
import { GGML_TYPES, type GgmlType } from '../../src/checkpoint/gguf/types.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import { fileBytes, type Checkpoint, type TensorEntry } from '../../src/checkpoint/types.ts'
import { loadGgufTokenizer } from '../../src/data/gguf-tokenizer.ts'
import { findTensors, ignoredTensors } from '../../src/engine/tensors.ts'
import { NO_CHANGE } from '../../src/noise/factors.ts'
import { convertElements } from '../../src/util/dtypes.ts'
import { openStore } from '../../src/weights/store.ts'
import { tilesOf } from '../../scheduler/tiles.ts'
import { seeded, temporaryFolder } from '../helpers/hostile.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/gguf/', import.meta.url))
const json = (name: string): unknown => JSON.parse(readFileSync(join(FIXTURES, name), 'utf8'))
const BLOCKS = json('blocks.json') as Record<GgmlType, { raw: string; values: string }>
const { models } = json('expected.json') as { models: Record<string, Record<string, string>> }

describe('blocks', () => {
  it.each(Object.keys(GGML_TYPES) as GgmlType[])('of %s are those of the gguf package', (type) => {
    const raw = Buffer.from(BLOCKS[type].raw, 'base64')
    const values = Buffer.from(BLOCKS[type].values, 'base64')
    const out = new Float32Array(values.length / 4)
    expect(raw.length / GGML_TYPES[type].bytes).toBe(out.length / GGML_TYPES[type].elements)
    decodeBlocks(type, raw, out)
    // Bit by bit: the sign of a zero counts.
    expect(Buffer.from(out.buffer).equals(values)).toBe(true)
  })
})

/** All of a tensor's bytes. */
async function whole(checkpoint: Checkpoint, entry: TensorEntry): Promise<Uint8Array> {
  const files = await openFiles(checkpoint.files)
  try {
    const bytes = new Uint8Array(entry.bytes)
    await files.read(entry, 0, bytes)
    return bytes
  } finally {
    await files.close()
  }
}

const widened = async (checkpoint: Checkpoint, entry: TensorEntry): Promise<Uint8Array> =>
  convertElements(await whole(checkpoint, entry), entry.dtype, 'F32')

const CASES = [
  ['llama', 'llama.gguf'],
  ['llama', 'split-00001-of-00003.gguf'],
  ['gemma2', 'gemma2.gguf'],
  ['gpt2', 'gpt2.gguf'],
] as const

describe('a GGUF file', () => {
  it.each(CASES)('of %s, %s, has the tensors of its Hugging Face model', async (name, file) => {
    const checkpoint = await openCheckpoint(FIXTURES, file)
    const model = createModel(checkpoint.config)
    const expected = models[name]!
    expect([...checkpoint.tensors.keys()].sort()).toEqual(Object.keys(expected).sort())
    for (const [own, hash] of Object.entries(expected)) {
      const bytes = await widened(checkpoint, checkpoint.tensors.get(own)!)
      expect(createHash('sha256').update(bytes).digest('hex'), own).toBe(hash)
    }
    findTensors(model, checkpoint)
    expect(await ignoredTensors(model, checkpoint)).toEqual([])
  })

  it('gives any range of a tensor', async () => {
    const random = seeded(1)
    for (const file of ['llama.gguf', 'gpt2.gguf', 'gemma2.gguf']) {
      const checkpoint = await openCheckpoint(FIXTURES, file)
      const files = await openFiles(checkpoint.files)
      for (const entry of checkpoint.tensors.values()) {
        const all = await whole(checkpoint, entry)
        for (let i = 0; i < 20; i++) {
          const from = random(entry.bytes)
          const length =
            1 + random(i % 2 === 0 ? entry.bytes - from : Math.min(300, entry.bytes - from))
          const into = new Uint8Array(length + 8).subarray(random(8)).subarray(0, length)
          await files.read(entry, from, into)
          const expected = all.subarray(from, from + length)
          expect(Buffer.from(into).equals(expected), `${file} ${entry.name} ${from}`).toBe(true)
        }
      }
      await files.close()
    }
  })

  it('is read by the threads that fold as by the others, past the page cache too', async () => {
    const both = await Promise.all(
      ['llama.gguf', 'gpt2.gguf'].map((file) => openCheckpoint(FIXTURES, file)),
    )
    const matrices = both
      .flatMap(({ tensors }) => [...tensors.values()])
      .filter(({ shape }) => shape.length === 2)
      .map((entry) => {
        const [rows, cols] = entry.shape as [number, number]
        return { name: entry.name, cols, tiles: tilesOf(rows, cols), entry, trains: true }
      })
    const store = await openStore({
      matrices,
      overlayDtype: 'float32',
      seed: 0,
      ramBytes: 0,
      scratchDir: temporaryFolder(),
      threads: 1,
      cacheRoomBytes: 0,
    })
    try {
      for (const { name, tiles, entry } of matrices) {
        const memory = new SharedArrayBuffer(entry.shape[0]! * entry.shape[1]! * 4)
        expect(tiles.length).toBe(1)
        const made = await store.materialise(name, tiles[0]!, NO_CHANGE, memory)
        const expected = await widened(
          both.find(({ tensors }) => tensors.has(name))!,
          entry,
        )
        const bytes = Buffer.from(new Uint8Array(made.buffer, 0, made.byteLength))
        expect(bytes.equals(expected), name).toBe(true)
      }
    } finally {
      await store.close()
    }
  })

  it('has the configuration of its model', async () => {
    const { config } = await openCheckpoint(FIXTURES, 'llama.gguf')
    const divisors = [1, 1, 1.5, 2, 3, 4, 8, 8]
    expect(config).toMatchObject({
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      hidden_size: 64,
      intermediate_size: 96,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 16,
      vocab_size: 40,
      rms_norm_eps: Math.fround(1e-5),
      tie_word_embeddings: false,
      bos_token_id: 1,
      rope_scaling: { rope_type: 'longrope', short_factor: divisors, long_factor: divisors },
    })
    // 1/divisor of theta^(-2i/d), at any length.
    const [rope] = createModel(config).ropes!
    const plain = divisors.map((by, i) => 10_000 ** (-i / 8) / by)
    expect(rope!.frequencies).toEqual(plain)
    expect(rope!.long!.frequencies).toEqual(plain)
    expect(rope!.factor).toBe(1)
    const gemma = await openCheckpoint(FIXTURES, 'gemma2.gguf')
    expect(gemma.config).toMatchObject({
      query_pre_attn_scalar: 16,
      sliding_window: 8,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
      tie_word_embeddings: true,
    })
  })

  it('counts for what the file has of it, not for what becomes of that', async () => {
    const { tensors } = await openCheckpoint(FIXTURES, 'llama.gguf')
    const q = tensors.get('model.layers.0.self_attn.q_proj.weight')!
    expect([q.dtype, q.bytes, fileBytes(q)]).toEqual(['F32', 64 * 64 * 4, 64 * 2 * 20])
    const k = tensors.get('model.layers.0.self_attn.k_proj.weight')!
    expect([k.dtype, k.bytes, fileBytes(k)]).toEqual(['F16', 32 * 64 * 2, 32 * 64 * 2])
  })

  it('opens as the only file of a folder, alone or split', async () => {
    const folder = temporaryFolder()
    copyFileSync(join(FIXTURES, 'llama.gguf'), join(folder, 'a.gguf'))
    expect((await openCheckpoint(folder)).format).toBe('gguf')
    copyFileSync(join(FIXTURES, 'gpt2.gguf'), join(folder, 'b.gguf'))
    await expect(openCheckpoint(folder)).rejects.toThrow(
      /expected one GGUF file .*a\.gguf, b\.gguf/,
    )
    const split = join(folder, 'split')
    mkdirSync(split)
    for (const n of [1, 2, 3]) {
      const name = `split-0000${n}-of-00003.gguf`
      copyFileSync(join(FIXTURES, name), join(split, name))
    }
    expect((await openCheckpoint(split)).files.length).toBe(3)
    expect((await openCheckpoint(split, 'split-00002-of-00003.gguf')).files.length).toBe(3)
    rmSync(join(split, 'split-00002-of-00003.gguf'))
    await expect(openCheckpoint(split)).rejects.toThrow(/00002-of-00003\.gguf: cannot be opened/)
    copyFileSync(
      join(FIXTURES, 'split-00003-of-00003.gguf'),
      join(split, 'split-00002-of-00003.gguf'),
    )
    await expect(openCheckpoint(split)).rejects.toThrow(/expected part 1 of 3 .* split\.no 2/)
    const lost = join(folder, 'lost.gguf')
    copyFileSync(join(FIXTURES, 'split-00001-of-00003.gguf'), lost)
    await expect(openCheckpoint(folder, 'lost.gguf')).rejects.toThrow(/split\.count 3/)
  })
})

describe('the tokenizer of a GGUF file', () => {
  it('of GPT-2 encodes and decodes', async () => {
    const tokenizer = loadGgufTokenizer(await openCheckpoint(FIXTURES, 'gpt2.gguf'))
    expect(tokenizer.encode('ab a!')).toEqual([3, 5, 0])
    expect(tokenizer.decode([3, 5, 0])).toBe('ab a!')
    expect([tokenizer.eosId, tokenizer.eosIds, tokenizer.vocabSize]).toEqual([39, [39], 40])
    expect(tokenizer.encode('<|endoftext|>')).toEqual([39])
  })

  it('of SentencePiece has merges derived as transformers does', async () => {
    const { file, metadata } = await readGgufHeader(join(FIXTURES, 'llama.gguf'))
    const { tokenizer, settings } = ggufTokenizer(file, metadata)
    expect(tokenizer['model']).toMatchObject({
      type: 'BPE',
      unk_token: '<unk>',
      byte_fallback: true,
      fuse_unk: true,
      // By score, then by the length of the left part.
      merges: [
        ['a', 'b'],
        ['▁', 'a'],
        ['b', 'ab'],
      ],
    })
    expect(settings).toMatchObject({ bos_token: '<s>', eos_token: '</s>', add_bos_token: true })
    expect(tokenizer['added_tokens']).toMatchObject([
      { id: 1, content: '<s>', special: true },
      { id: 2, content: '</s>', special: true },
    ])
    expect(tokenizer['post_processor']).toMatchObject({
      single: [{ SpecialToken: { id: '<s>' } }, {}],
    })
  })

  it('is refused by name where it is not known', async () => {
    const { file, metadata } = await readGgufHeader(join(FIXTURES, 'gpt2.gguf'))
    const made = (key: string, value: string) => () =>
      ggufTokenizer(file, new Map([...metadata, [`tokenizer.ggml.${key}`, value]]))
    expect(made('model', 'bert')).toThrow(/model "bert" is not supported; supported: gpt2, llama/)
    expect(made('pre', 'tekken')).toThrow(
      /pre "tekken" is not supported; supported: default, gpt-2/,
    )
  })
})
