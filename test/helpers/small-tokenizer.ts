// A byte-level BPE tokenizer small enough to work out by hand, in OPT's layout: four special tokens,
// the 256 bytes, and a merge for each line below. Ids: byte b in GPT-2's order from 4, merges from 260.

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

const MERGES = [
  'Ġ t',
  'h e',
  'Ġt he',
  'Ġ g',
  'r e',
  'Ġg re',
  'a t',
  'Ġgre at',
  'e r',
  'Ġt er',
  'r i',
  'b l',
  'ri bl',
  'Ġter ribl',
  'Ġterribl e',
  'Ã ©',
  'Ċ Ċ',
  'Ġ Ġ',
  "' s",
]

/** GPT-2's characters for the 256 bytes, in the order of its vocabulary. */
function byteCharacters(): string[] {
  const shown = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  const bytes = Array.from({ length: 256 }, (_, byte) => byte)
  const visible = bytes.filter(shown).map((byte) => String.fromCharCode(byte))
  const hidden = bytes.filter((byte) => !shown(byte)).map((_, i) => String.fromCharCode(256 + i))
  return [...visible, ...hidden]
}

export const SPECIALS = ['<s>', '<pad>', '</s>', '<unk>']

export const VOCAB: Record<string, number> = Object.fromEntries(
  [...SPECIALS, ...byteCharacters(), ...MERGES.map((merge) => merge.replace(' ', ''))].map(
    (token, id) => [token, id],
  ),
)

export const FILES = {
  'vocab.json': JSON.stringify(VOCAB),
  'merges.txt': ['#version: 0.2', ...MERGES, ''].join('\n'),
  'tokenizer_config.json': JSON.stringify({
    add_bos_token: true,
    add_prefix_space: false,
    bos_token: { __type: 'AddedToken', content: '</s>', lstrip: false, rstrip: false },
    eos_token: '</s>',
    unk_token: '</s>',
    pad_token: '<pad>',
  }),
}

/** The same tokenizer as one `tokenizer.json`. */
export const TOKENIZER_JSON = {
  version: '1.0',
  added_tokens: [1, 2].map((id) => ({
    id,
    content: SPECIALS[id],
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: true,
  })),
  normalizer: null,
  pre_tokenizer: {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '</s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
  },
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: { type: 'BPE', dropout: null, unk_token: null, vocab: VOCAB, merges: MERGES },
}

const made: string[] = []
afterAll(() => Promise.all(made.map((dir) => rm(dir, { recursive: true }))))

/** A new folder with these files, removed after the tests of the file. */
export async function folder(files: Record<string, string | Uint8Array>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'zo2-data-'))
  made.push(dir)
  await Promise.all(Object.entries(files).map(([name, data]) => writeFile(join(dir, name), data)))
  return dir
}
