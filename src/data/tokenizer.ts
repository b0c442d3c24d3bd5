// A model folder's tokenizer: text to ids and back, equal to Hugging Face `tokenizers` for the same
// files. Added tokens, normalizers and decoders are done here; the BPE between them is done by
// `@huggingface/tokenizers`, from an object that is built here out of checked parts
// (tokenizer-files.ts), so nothing unchecked from a file reaches the package.
// Padding and truncation are batches.ts's and examples.ts's matter.

import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { UserError } from '../util/errors.ts'
import { maxOf } from '../util/extremes.ts'
import { describe } from '../util/untrusted.ts'
import { addedSplitter } from './added-tokens.ts'
import { loadChatTemplate } from './chat-template.ts'
import { BYTE_TOKEN, tokenDecoder } from './decode-tokens.ts'
import { lostCharacters, refuseLost } from './lost-characters.ts'
import { readTokenizerFiles, type TokenizerFiles } from './tokenizer-files.ts'
import { SPACE, type Pipeline } from './tokenizer-pipelines.ts'
import type { Tokenizer } from './types.ts'

// Long texts go through the package in pieces of about this many UTF-16 units, because it holds a
// dozen objects per token while it works.
const PIECE_UNITS = 2 ** 16

/**
 * Loads the tokenizer of a model folder from tokenizer.json, or from GPT-2's vocab.json + merges.txt,
 * with the settings beside them (tokenizer-files.ts).
 * @throws UserError where files are missing, damaged, inconsistent or of another kind
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const files = await readTokenizerFiles(dir)
  const { bosId, eosId, padId, prefix, suffix, tokens, cleansUp } = files
  const encode = encoder(files)
  const decode = tokenDecoder(files.pipeline)
  const spelled = spellings(files)
  const special = new Set(files.added.filter((token) => token.special).map(({ id }) => id))
  // A byte's token stands for it; byte-level vocabularies may lack some.
  const lost = files.pipeline.kind === 'bytes' ? lostCharacters(files) : () => new Set<string>()

  return {
    encode(text, { bos = true } = {}) {
      checkText(text)
      refuseLost(lost(text))
      const ids = bos ? [...prefix] : []
      encode.append(text, ids)
      return ids
    },
    locate(text, places) {
      checkText(text)
      refuseLost(lost(text))
      const ids: number[] = []
      return { at: encode.locate(text, ids, places), ids }
    },
    decode(ids, { skipSpecial = false } = {}) {
      if (!Array.isArray(ids)) {
        throw new UserError(`decode: expected a list of token ids, found ${describe(ids)}`)
      }
      const shown = skipSpecial ? ids.filter((id) => !special.has(id)) : ids
      const text = decode(shown.map((id) => spelled[id]).filter((token) => token !== undefined))
      return cleansUp ? cleanedUp(text) : text
    },
    tokenOf: (id) => tokens[id],
    bosId,
    eosId,
    eosIds: [eosId],
    padId,
    suffix,
    chatTemplate: () =>
      loadChatTemplate(
        dir,
        files.roles,
        files.added.map(({ content }) => content),
      ),
    vocabSize: tokens.length,
    textSize: maxOf([...files.vocab.values()]) + 1,
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

/** The tokens as they are decoded: an added token that is normalized is what it has become. */
function spellings({ tokens, added, pipeline }: TokenizerFiles): readonly (string | undefined)[] {
  const spelled = [...tokens]
  const normalize = normalizer(pipeline)
  for (const { id, content, normalized } of added) {
    if (normalized) spelled[id] = normalize(content)
  }
  return spelled
}

/** Old configurations ask for spaces before punctuation to be removed. */
const cleanedUp = (text: string) =>
  text
    .replace(/ ([.?!,])/g, '$1')
    .replaceAll(" ' ", "'")
    .replace(/ (n't|'m|'s|'ve|'re)/g, '$1')

/** Appends the ids of a text to a list. */
type Append = (text: string, ids: number[]) => void

interface Encoder {
  readonly append: Append
  /** The same; returns the indices in the list of the tokens that hold the characters at `places`. */
  locate(text: string, ids: number[], places: readonly number[]): number[]
}

function encoder(files: TokenizerFiles): Encoder {
  const { pipeline, added } = files
  const normalize = normalizer(pipeline)
  const inText = addedSplitter(added.filter((token) => !token.normalized))
  const inNormalized = addedSplitter(
    added.filter((token) => token.normalized),
    normalize,
  )
  const prepare = beforeWords(files)
  const bpe = bpeEncoder(files)
  const bytesOf = tokenBytes(files)

  /** Calls `visit` for each section, of `text` or of what normalizing made of a part, after its ids. */
  function walk(text: string, ids: number[], visit?: Visit): void {
    for (const outer of inText(text)) {
      const outerFirst = ids.length
      if ('id' in outer) {
        ids.push(outer.id)
        visit?.(outer, (place) => (place < outer.end ? outerFirst : undefined))
        continue
      }
      const inside: ((place: number) => number | undefined)[] = []
      for (const inner of inNormalized(normalize(outer.text))) {
        const first = ids.length
        if ('id' in inner) {
          ids.push(inner.id)
          if (visit) inside.push((place) => (place < inner.end ? first : undefined))
          continue
        }
        const prepared = prepare(inner.text, outer.start + inner.start === 0)
        bpe(prepared, ids)
        const shift = prepared.length - inner.text.length - inner.start
        const last = ids.length
        if (!visit) continue
        inside.push((place) => {
          if (place >= inner.end) return undefined
          const before = place === inner.start ? '' : prepared.slice(0, shift + place)
          let bytes = Buffer.byteLength(before)
          for (let i = first; i < last; i++) if ((bytes -= bytesOf(ids[i]!)) < 0) return i
          return last - 1
        })
      }
      visit?.(outer, (place) => {
        // What is put before a text belongs to its first character.
        const before = outer.text.slice(0, place - outer.start)
        const normal = before === '' ? 0 : normalize(before).length
        for (const find of inside) {
          const found = find(normal)
          if (found !== undefined) return found
        }
        return undefined
      })
    }
  }

  return {
    append: (text, ids) => walk(text, ids),
    locate(text, ids, places) {
      const found = places.map(() => -1)
      walk(text, ids, ({ start, end }, find) => {
        for (const [i, place] of places.entries()) {
          if (place >= start && place < end) found[i] = find(place) ?? ids.length - 1
        }
      })
      return found
    },
  }
}

/** Told of a part of a text, and how to find the token that holds the character at a place in it. */
type Visit = (
  part: { readonly start: number; readonly end: number },
  find: (place: number) => number | undefined,
) => void

/** How many bytes of a text a token stands for. */
function tokenBytes({ tokens, pipeline }: TokenizerFiles): (id: number) => number {
  if (pipeline.kind === 'bytes') return (id) => tokens[id]!.length
  return (id) => (BYTE_TOKEN.test(tokens[id]!) ? 1 : Buffer.byteLength(tokens[id]!))
}

function normalizer(pipeline: Pipeline): (text: string) => string {
  if (pipeline.kind === 'bytes') {
    return pipeline.nfc ? (text) => text.normalize('NFC') : (text) => text
  }
  if (!pipeline.isNormalizer) return (text) => text
  const first = pipeline.prepend === 'each' ? SPACE : ''
  return (text) => first + text.replaceAll(' ', SPACE)
}

/** What a pre-tokenizer does to a text between added tokens before it looks for words. */
function beforeWords(files: TokenizerFiles): (text: string, isFirst: boolean) => string {
  const { pipeline, addsPrefixSpace } = files
  if (pipeline.kind === 'bytes') {
    const isAdded = addsPrefixSpace || (!pipeline.isGpt2 && pipeline.addPrefixSpace)
    return (text) => (isAdded && !text.startsWith(' ') ? ` ${text}` : text)
  }
  if (pipeline.isNormalizer) return (text) => text
  return (text, isFirst) => {
    const spaced = text.replaceAll(' ', SPACE)
    const asks = pipeline.prepend === 'always' || (pipeline.prepend === 'first' && isFirst)
    return asks && !spaced.startsWith(SPACE) ? SPACE + spaced : spaced
  }
}

function bpeEncoder(files: TokenizerFiles): Append {
  const { pipeline, merges } = files
  // A merge across the beginning of a word: then a text is one word, as SentencePiece's form has it.
  const isCrossed = merges.some(([a, b]) => !a.endsWith(SPACE) && b.startsWith(SPACE))
  const words = pipeline.kind === 'bytes' ? pipeline.words : isCrossed ? [] : [SPACED_WORDS]
  const engine = new HuggingFaceTokenizer(tokenizerJson(files, words), {})
  const pieces = (text: string) => {
    if (pipeline.kind === 'bytes') return cutBeforeSpaces(text, pipeline.isGpt2 ? LINES : undefined)
    return isCrossed ? [text] : cutBeforeSpaces(text, SPACED)
  }
  return (text, ids) => {
    for (const piece of pieces(text)) {
      for (const id of engine.encode(piece, { add_special_tokens: false }).ids) ids.push(id)
    }
  }
}

const SPACED_WORDS = `${SPACE}+[^${SPACE}]*|[^${SPACE}]+`

/** The object that a `tokenizer.json` for these files would hold. */
function tokenizerJson(
  { vocab, merges, pipeline }: TokenizerFiles,
  words: readonly string[],
): object {
  const isBytes = pipeline.kind === 'bytes'
  const splits = words.map((pattern) => ({
    type: 'Split',
    pattern: { Regex: pattern },
    behavior: 'Isolated',
    invert: false,
  }))
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const pretokenizers = [...splits, ...(isBytes ? [bytes] : [])]
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: pretokenizers.length > 0 ? { type: 'Sequence', pretokenizers } : null,
    post_processor: null,
    decoder: null,
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(vocab),
      merges,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: !isBytes,
      ignore_merges: isBytes && pipeline.ignoreMerges,
    },
  }
}

// Where a text may be cut: between two words of every pattern here (tokenizer-pipelines.ts). Whatever
// matches a visible character ends before the next space and looks no further; line ends may follow
// punctuation in one word, though not in GPT-2's.
const SPACES = /[^\s\u0085] |[\p{L}\p{N}]\n/gu
const LINES = /[^\s\u0085][ \n]/gu
const SPACED = new RegExp(`[^${SPACE}]${SPACE}`, 'gu')

/** Cuts a long text at `boundary`, whose matches are two characters that belong to two words. */
export function cutBeforeSpaces(text: string, boundary: RegExp = SPACES): string[] {
  const pieces: string[] = []
  let start = 0
  while (text.length - start > PIECE_UNITS) {
    boundary.lastIndex = start + PIECE_UNITS - 2
    const match = boundary.exec(text)
    if (!match) break
    const end = match.index + match[0].length - 1
    pieces.push(text.slice(start, end))
    start = end
  }
  pieces.push(text.slice(start))
  return pieces
}
