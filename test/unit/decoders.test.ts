// Configurations of Llama, Qwen, Mistral, SmolLM3, Phi-3 and Gemma: what is missing, wrong or not supported is one
// sentence that names it; both spellings of a rope are the same rope; windows and longer texts.
// Alone: npx vitest run test/unit/decoders.test.ts

import { describe, expect, it } from 'vitest'
import type { Config } from '../../models/config.ts'
import { createModel } from '../../models/index.ts'
import { lengthsOf, packTexts } from '../../src/data/packing.ts'
import { lastKeys, queryGroups } from '../../src/device/packed.ts'

const SMALL: Config = {
  vocab_size: 61,
  hidden_size: 48,
  intermediate_size: 77,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
}
const YARN = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16 }

describe('a config.json', () => {
  it.each<[string, Config, RegExp]>([
    ['llama', { hidden_size: null }, /^config\.json: hidden_size must be a positive integer/],
    [
      'llama',
      { num_attention_heads: 5, head_dim: 8 },
      /num_attention_heads 5 is not a multiple of/,
    ],
    ['llama', { num_attention_heads: 10 }, /hidden_size 48 is not a multiple of .* no head_dim/],
    ['llama', { hidden_act: 'softplus' }, /hidden_act "softplus" is not supported; known: .*silu/],
    [
      'llama',
      { rope_scaling: { type: 'dynamic', factor: 2 } },
      /"dynamic" .* other texts of a batch/,
    ],
    [
      'llama',
      { rope_scaling: { rope_type: 'spiral' } },
      /"spiral" is not supported: it is not known/,
    ],
    ['llama', { rope_scaling: { rope_type: 7 } }, /rope_type must be a name, found 7/],
    ['llama', { rope_scaling: 'linear' }, /rope_scaling must be an object/],
    ['llama', { rope_scaling: { type: 'linear' } }, /factor must be a positive number/],
    [
      'llama',
      { rope_scaling: { type: 'llama3', factor: 8 } },
      /low_freq_factor must be a positive/,
    ],
    ['llama', { rope_theta: -1 }, /rope_theta must be a positive number, found -1/],
    [
      'llama',
      { partial_rotary_factor: 2 },
      /partial_rotary_factor 2 makes 16 rotated columns of 8/,
    ],
    [
      'llama',
      { rope_parameters: { full_attention: { rope_theta: 5 } } },
      /rope_parameters of .*full_attention.* not supported for model_type "?llama/,
    ],
    ['mistral', { sliding_window: 0 }, /sliding_window must be a positive integer, found 0/],
    ['qwen3', { layer_types: ['full_attention'] }, /layer_types must be 3 times full_attention or/],
    [
      'smollm3',
      { no_rope_layers: [1, 0, 2] },
      /no_rope_layers must be 0 or 1 for each of 3 layers/,
    ],
    [
      'phi3',
      { rope_scaling: { type: 'su', short_factor: [1] } },
      /short_factor must be 4 positive/,
    ],
    ['gemma2', { use_bidirectional_attention: true }, /use_bidirectional_attention true is not/],
    ['gemma3', {}, /model_type "?gemma3"? is not supported; supported: gemma, .*llama/],
  ])('of %s with %j is refused by name', (model_type, changes, reason) => {
    expect(() => createModel({ ...SMALL, model_type, ...changes })).toThrow(reason)
  })

  it('may be spelled as transformers 4 or 5 do', () => {
    const ropes = (config: Config) =>
      createModel({ ...SMALL, model_type: 'llama', ...config }).ropes
    const four = ropes({ rope_theta: 5000, rope_scaling: YARN })
    expect(four).toEqual(ropes({ rope_parameters: { ...YARN, rope_theta: 5000 } }))
    expect(four).not.toEqual(ropes({ rope_scaling: YARN }))
    expect(ropes({ rope_theta: null })).toEqual(ropes({ rope_theta: 10_000 }))
  })

  it('of Mistral without a window has one of 4096 keys, with null none', () => {
    const windowOf = (config: Config) =>
      createModel({ ...SMALL, model_type: 'mistral', ...config }).ops.flatMap((op) =>
        op.kind === 'attention' ? [op.window] : [],
      )
    expect(windowOf({})).toEqual([4096, 4096, 4096])
    expect(windowOf({ sliding_window: null })).toEqual([undefined, undefined, undefined])
  })
})

describe('rows', () => {
  it('see the last keys of a window, in a text with a beginning shared', () => {
    const sees = queryGroups([
      { row0: 0, rows: 3 },
      { row0: 3, rows: 2, parent: 0 },
    ])
    const { groups } = lastKeys(sees, 2)
    expect(groups.map(({ from, to }) => [[...from], [...to]])).toEqual([
      [
        [0, 0, 1],
        [1, 2, 3],
      ],
      [
        [2, 3],
        [4, 5],
      ],
    ])
    expect(lastKeys(sees, 5)).toBe(sees)
    expect(lastKeys(sees, undefined)).toBe(sees)
  })

  it('know the length of their text; longer texts can be kept apart', () => {
    const text = (length: number) => {
      const inputIds = Array.from({ length }, (_, i) => i)
      return { inputIds, labels: inputIds }
    }
    const texts = [text(12), text(22), text(40)]
    expect([...lengthsOf(packTexts(texts))]).toEqual(new Array<number>(39).fill(40))
    const apart = packTexts(texts, { apart: 22 })
    expect([...lengthsOf(apart)]).toEqual([
      ...new Array<number>(21).fill(22),
      ...new Array<number>(39).fill(40),
    ])
  })
})
