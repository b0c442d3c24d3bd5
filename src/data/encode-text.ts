// From a text to ids: added tokens, normalizers and what comes before words are done here; the BPE between
// them is done by `@huggingface/tokenizers`, from an object that is built here out of checked parts
// (tokenizer-files.ts), so nothing unchecked from a file reaches the package. The package's Unicode may be
// newer than Hugging Face's: NFC puts combining marks of recent versions into order, which that leaves alone.

import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { addedSplitter, type Section } from './added-tokens.ts'
import { BYTE_TOKEN } from './decode-tokens.ts'
import type { TokenizerFiles } from './tokenizer-files.ts'
import { SPACE, type Pipeline } from './tokenizer-pipelines.ts'

// Long texts go through the package in pieces of about this many UTF-16 units, because it holds a
// dozen objects per token while it works.
const PIECE_UNITS = 2 ** 16

/** A part of a text that has been encoded, in UTF-16 units. */
export interface Part {
  readonly start: number
  readonly end: number
  /** The index of the token that holds the character at a place in the part. */
  tokenAt(place: number): number | undefined
}

/** Appends the ids of a text to a list. */
type Append = (text: string, ids: number[]) => void

/** Appends the ids of a text to a list, and tells which tokens its parts became. */
export function textEncoder(files: TokenizerFiles): (text: string, ids: number[]) => Part[] {
  const { pipeline, added } = files
  const normalize = normalizer(pipeline)
  const isNormalized = added.filter((token) => token.normalized)
  const inText = addedSplitter(added.filter((token) => !token.normalized))
  const inNormalized = addedSplitter(isNormalized, normalize)
  const plain = plainEncoder(files)

  const inner = (section: Section, ids: number[], isFirst: boolean): Part =>
    'id' in section ? tokenPart(section, ids) : plain(section, ids, isFirst)
  const outer = (section: Section, ids: number[]): Part => {
    if ('id' in section) return tokenPart(section, ids)
    const { text, start, end } = section
    const parts = inNormalized(normalize(text)).map((part) =>
      inner(part, ids, start + part.start === 0),
    )
    const tokenAt = (place: number) => {
      // What is put before a text belongs to its first character.
      const before = text.slice(0, place - start)
      const normal = before === '' ? 0 : normalize(before).length
      return parts.find((part) => normal < part.end)?.tokenAt(normal)
    }
    return { start, end, tokenAt }
  }
  return (text, ids) => inText(text).map((section) => outer(section, ids))
}

function tokenPart({ id, start, end }: Extract<Section, { id: number }>, ids: number[]): Part {
  const index = ids.push(id) - 1
  return { start, end, tokenAt: () => index }
}

/** Encodes text between added tokens. */
function plainEncoder(
  files: TokenizerFiles,
): (section: Extract<Section, { text: string }>, ids: number[], isFirst: boolean) => Part {
  const prepare = beforeWords(files)
  const append = bpeEncoder(files)
  const bytesOf = tokenBytes(files)
  return ({ text, start, end }, ids, isFirst) => {
    const prepared = prepare(text, isFirst)
    const first = ids.length
    append(prepared, ids)
    const last = ids.length - 1
    const put = prepared.length - text.length
    const tokenAt = (place: number) => {
      const before = place === start ? '' : prepared.slice(0, put + place - start)
      let bytes = Buffer.byteLength(before)
      for (let i = first; i < last; i++) if ((bytes -= bytesOf(ids[i]!)) < 0) return i
      return last
    }
    return { start, end, tokenAt }
  }
}

/** How many bytes of a text a token stands for. */
function tokenBytes({ tokens, pipeline }: TokenizerFiles): (id: number) => number {
  if (pipeline.kind === 'bytes') return (id) => tokens[id]!.length
  return (id) => (BYTE_TOKEN.test(tokens[id]!) ? 1 : Buffer.byteLength(tokens[id]!))
}

/** What a text between added tokens becomes before words are looked for. */
export function normalizer(pipeline: Pipeline): (text: string) => string {
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
