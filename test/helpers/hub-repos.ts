// The repositories of the mock hub in hub.test.ts: one OPT in every layout, and what is refused.

import type { MockFile, MockRepo } from './mock-hub.ts'

export const MAIN = 'a'.repeat(40)
export const PULL = 'b'.repeat(40)
export const SHARDED = 'c'.repeat(40)
const FLAX = 'd'.repeat(40)

const small = (text: string): MockFile => ({ bytes: Buffer.from(text) })
const large = (bytes: number, seed: number): MockFile => ({
  lfs: true,
  bytes: Buffer.from(Uint8Array.from({ length: bytes }, (_, i) => (i * seed) % 251)),
})

export const base = {
  'README.md': small('# model'),
  'config.json': small('{"model_type":"opt"}'),
  'vocab.json': small('{"a":0}'),
  'merges.txt': small('#version: 0.2'),
}
export const index = (...shards: string[]): MockFile =>
  small(JSON.stringify({ weight_map: Object.fromEntries(shards.map((s, i) => [`t${i}`, s])) }))

export const opt: MockRepo = {
  refs: { main: MAIN, 'refs/pr/35': PULL, sharded: SHARDED, flax: FLAX },
  commits: {
    [MAIN]: {
      ...base,
      'pytorch_model.bin': large(300_000, 7),
      'flax_model.msgpack': large(1000, 3),
      'tf_model.h5': large(1000, 5),
    },
    [PULL]: {
      ...base,
      'pytorch_model.bin': large(300_000, 7),
      'model.safetensors': large(200_000, 11),
    },
    [SHARDED]: {
      ...base,
      'pytorch_model.bin.index.json': index('pytorch_model-00001.bin', 'pytorch_model-00002.bin'),
      'pytorch_model-00001.bin': large(100_000, 13),
      'pytorch_model-00002.bin': large(50_000, 17),
      'pytorch_model-00003.bin': large(10, 19),
    },
    [FLAX]: { ...base, 'flax_model.msgpack': large(1000, 3) },
  },
}

/** All by their ids. */
export const REPOS: Readonly<Record<string, MockRepo>> = {
  'org/opt': opt,
  'org/gated': { ...opt, gated: true, token: 'mirror-token' },
  'org/private': { ...opt, token: 'mirror-token' },
  'org/evil': {
    refs: { main: MAIN },
    commits: {
      [MAIN]: { ...base, 'model.safetensors.index.json': index('../../x.safetensors') },
    },
  },
  'org/lora': {
    refs: { main: MAIN },
    commits: {
      [MAIN]: {
        'adapter_config.json': small('{"peft_type":"LORA"}'),
        'adapter_model.safetensors': large(9, 3),
      },
    },
  },
  'org/vast': {
    refs: { main: MAIN },
    commits: {
      [MAIN]: { ...base, 'model.safetensors': { ...large(9, 3), listedBytes: 2 ** 52 } },
    },
  },
}
