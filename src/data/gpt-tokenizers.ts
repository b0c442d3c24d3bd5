// The tokenizers of nanoGPT's data sets: GPT-2's BPE without a model folder (npm `tiktoken`, the code
// that nanoGPT runs, with its table of ranks), and one token per character. A Hugging Face GPT-2
// folder brings its own files: tokenizer.ts.

import { refuseLost } from './lost-characters.ts'
import { cutBeforeSpaces } from './encode-text.ts'
import type { Tokenizer } from './types.ts'

/** GPT-2's only special token. */
export const END_OF_TEXT = 50256

/** GPT-2's BPE. `encode` never makes special tokens of a text, and adds none. */
export async function loadGpt2Tokenizer(): Promise<Tokenizer> {
  // Loaded when it is wanted: its WebAssembly has 5 MB.
  const [{ Tiktoken }, { default: ranks }] = await Promise.all([
    import('tiktoken/lite'),
    import('tiktoken/encoders/gpt2'),
  ])
  // The package's types are of its ES module, where Node takes the CommonJS one.
  const { bpe_ranks, special_tokens, pat_str } = ranks as unknown as (typeof ranks)['default']
  const engine = new Tiktoken(bpe_ranks, special_tokens, pat_str)
  const text = (ids: readonly number[]) =>
    new TextDecoder('utf-8', { ignoreBOM: true }).decode(engine.decode(Uint32Array.from(ids)))
  return {
    encode(text) {
      const ids: number[] = []
      for (const piece of cutBeforeSpaces(text)) {
        for (const id of engine.encode_ordinary(piece)) ids.push(id)
      }
      return ids
    },
    decode(ids, { skipSpecial = false } = {}) {
      // The engine ends at an id that it does not know: a padded vocabulary has some.
      return text(ids.filter((id) => id < END_OF_TEXT || (id === END_OF_TEXT && !skipSpecial)))
    },
    tokenOf: (id) => (id <= END_OF_TEXT ? text([id]) : undefined),
    bosId: END_OF_TEXT,
    eosId: END_OF_TEXT,
    eosIds: [END_OF_TEXT],
    padId: END_OF_TEXT,
    vocabSize: END_OF_TEXT + 1,
  }
}

/**
 * One token per code point, ids in the order of `characters`; a text with others is refused. There are
 * no special tokens: eosId is -1, which no model makes; bosId and padId are 0.
 */
export function characterTokenizer(characters: readonly string[]): Tokenizer {
  const ids = new Map(characters.map((character, id) => [character, id]))
  return {
    encode(text) {
      refuseLost(new Set([...new Set(text)].filter((character) => !ids.has(character))))
      return Array.from(text, (character) => ids.get(character)!)
    },
    decode: (tokens) => tokens.map((id) => characters[id] ?? '').join(''),
    tokenOf: (id) => characters[id],
    bosId: 0,
    eosId: -1,
    eosIds: [],
    padId: 0,
    vocabSize: characters.length,
  }
}
