// A model folder's tokenizer: text to ids and back, equal to Hugging Face `tokenizers` for the same
// files. Byte-level BPE is done by `@huggingface/tokenizers`, from an object that is built here out
// of checked parts (tokenizer-files.ts), so nothing unchecked from a file reaches the package.
// Padding and truncation are batches.ts's and examples.ts's matter.

import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { UserError } from '../util/errors.ts'
import { describe } from '../util/untrusted.ts'
import { lostCharacters, refuseLost } from './lost-characters.ts'
import { readTokenizerFiles, type TokenizerFiles } from './tokenizer-files.ts'
import type { AddedToken } from './tokenizer-parts.ts'
import type { Tokenizer } from './types.ts'

// GPT-2's pattern. The package has it too, but with JavaScript's \s, which takes U+FEFF for a space
// and U+0085 for none; a `Split` pattern is read with Unicode's White_Space, as Hugging Face does.
const CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
const GPT2_WORDS = String.raw`${CONTRACTIONS}| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// Long texts go through the package in pieces of about this many UTF-16 units, because it holds a
// dozen objects per token while it works.
const PIECE_UNITS = 2 ** 16

/**
 * Loads the tokenizer of a model folder from tokenizer.json, or from GPT-2's vocab.json + merges.txt,
 * with the settings beside them (tokenizer-files.ts).
 * @throws UserError where files are missing, damaged, inconsistent or of another kind
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  return tokenizerOfFiles(await readTokenizerFiles(dir))
}

/** The tokenizer of checked files. */
export function tokenizerOfFiles(files: TokenizerFiles): Tokenizer {
  const { bosId, eosId, padId, prefix } = files
  const engine = new HuggingFaceTokenizer(tokenizerJson(files), {})
  if (files.addsPrefixSpace) engine.normalizer = withSpace as unknown as typeof engine.normalizer
  const vocabSize = new Set([...files.vocab.keys(), ...files.added.map((t) => t.content)]).size
  // A piece that begins with a line end would be given a space.
  const boundary = files.addsPrefixSpace ? ' ' : ' \n'
  const isCut = canCut(files.added)
  const lost = lostCharacters(files)

  return {
    encode(text, { bos = true } = {}) {
      checkText(text)
      refuseLost(lost(text))
      const ids = bos ? [...prefix] : []
      for (const piece of isCut ? cutBeforeSpaces(text, boundary) : [text]) {
        for (const id of engine.encode(piece, { add_special_tokens: false }).ids) ids.push(id)
      }
      return ids
    },
    decode(ids, { skipSpecial = false } = {}) {
      if (!Array.isArray(ids)) {
        throw new UserError(`decode: expected a list of token ids, found ${describe(ids)}`)
      }
      const known = ids.filter((id) => engine.id_to_token(id) !== undefined)
      if (known.length === 0) return ''
      return engine.decode(known, {
        skip_special_tokens: skipSpecial,
        clean_up_tokenization_spaces: files.cleansUp,
      })
    },
    tokenOf: (id) => engine.id_to_token(id),
    bosId,
    eosId,
    eosIds: [eosId],
    padId,
    vocabSize,
  }
}

/** @throws UserError for what is no text, and for half a surrogate pair, which would become another character */
function checkText(text: unknown): void {
  if (typeof text !== 'string') {
    throw new UserError(`encode: expected a text, found ${describe(text)}`)
  }
  if (!/\p{Surrogate}/u.test(text)) return
  throw new UserError(
    'the text has half a surrogate pair (as \\ud800), which is no character: correct or remove it',
  )
}

/** The object that a `tokenizer.json` for these files would hold. */
function tokenizerJson({ vocab, merges, added }: TokenizerFiles): object {
  return {
    added_tokens: added.map((token) => ({ ...token, single_word: false, normalized: false })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: GPT2_WORDS }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(vocab),
      merges,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
    },
  }
}

/** Of each text between added tokens, as ByteLevel's add_prefix_space does it before it splits. */
const withSpace = (text: string) => (text.startsWith(' ') ? text : ` ${text}`)

/** Whether no added token reaches across a space, so that texts can be cut there. */
function canCut(added: readonly AddedToken[]): boolean {
  return added.every(({ content, lstrip, rstrip }) => !lstrip && !rstrip && !/\s/.test(content))
}

/**
 * Cuts a text before `spaces` that follow a visible character. Every alternative of GPT2_WORDS that
 * matches a visible character ends before the next space and looks no further, so the pieces'
 * tokens are the text's.
 */
export function cutBeforeSpaces(text: string, spaces = ' \n'): string[] {
  const pieces: string[] = []
  const boundary = new RegExp(`[^\\s\\u0085][${spaces}]`, 'g')
  let start = 0
  while (text.length - start > PIECE_UNITS) {
    boundary.lastIndex = start + PIECE_UNITS - 2
    const match = boundary.exec(text)
    if (!match) break
    pieces.push(text.slice(start, match.index + 1))
    start = match.index + 1
  }
  pieces.push(text.slice(start))
  return pieces
}
