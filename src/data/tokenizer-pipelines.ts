// What a tokenizer.json may do around its BPE: the shapes that the model types here have, one table of
// them. A file's component is admitted where it equals one of these; a pattern of a file is never run,
// the pattern from this table is. Everything else is refused by name.
// Sources: the families' tokenization code in `transformers`, and published tokenizer.json files.

import { UserError } from '../util/errors.ts'
import { excerpt, isObject, type Json } from '../util/untrusted.ts'

/** Byte-level BPE: bytes as characters, after a text has been split into words. */
export interface BytePipeline {
  readonly kind: 'bytes'
  /** GPT-2's own pre-tokenizer, with whose files come its rules of settings. */
  readonly isGpt2: boolean
  readonly nfc: boolean
  /** Patterns that isolate words, one after the other. */
  readonly words: readonly string[]
  readonly addPrefixSpace: boolean
  /** Whether a word that is in the vocabulary is taken whole. */
  readonly ignoreMerges: boolean
}

/** BPE as SentencePiece has it: spaces as ▁, characters without a token as bytes. */
export interface SpacePipeline {
  readonly kind: 'spaces'
  /** Which text is given a ▁ in front: none, each between added tokens, or only that at the start. */
  readonly prepend: 'never' | 'each' | 'always' | 'first'
  /** Whether ▁ is put for spaces before added tokens are looked for in normalized text. */
  readonly isNormalizer: boolean
  /** Whether decoding removes one space from the start. */
  readonly strips: boolean
}

export type Pipeline = BytePipeline | SpacePipeline

/** What SentencePiece writes for a space. */
export const SPACE = '▁'

// JavaScript's \s takes U+FEFF for a space and U+0085 for none. Patterns go through the package's
// `Split`, which reads \s as Unicode's White_Space, as Hugging Face does.
const CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
const GPT2_WORDS = String.raw`${CONTRACTIONS}| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
const DIGIT = String.raw`\p{N}`

const END = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`
const words = (digits: string) =>
  String.raw`(?i:${CONTRACTIONS})|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|${END}`

const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const cased = (digits: string, contractions: string) =>
  [
    String.raw`[^\r\n\p{L}\p{N}]?${UPPER}*${LOWER}+${contractions}`,
    String.raw`[^\r\n\p{L}\p{N}]?${UPPER}+${LOWER}*${contractions}`,
    digits,
    String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*`,
    END,
  ].join('|')

/** The patterns of `Split` in published files: Llama-3 and SmolLM3; Qwen; Phi-4; Mistral-Nemo. */
const KNOWN_WORDS: readonly string[] = [
  words(String.raw`\p{N}{1,3}`),
  words(DIGIT),
  cased(String.raw`\p{N}{1,3}`, `(?i:${CONTRACTIONS})?`),
  cased(DIGIT, ''),
]

/** The package folds a..z only; Unicode folds the long s with s, and Hugging Face with it. */
const runnable = (pattern: string) => pattern.replace("(?i:'s|", "(?i:'[s\\u017F]|")

const spaces = (pattern: string, content: string) => ({
  type: 'Replace',
  pattern: { String: pattern },
  content,
})
const SPLIT_SPACES = {
  type: 'Split',
  pattern: { String: ' ' },
  behavior: 'MergedWithPrevious',
  invert: false,
}
const PREPEND = {
  type: 'Sequence',
  normalizers: [{ type: 'Prepend', prepend: SPACE }, spaces(' ', SPACE)],
}
const FALLBACK = [spaces(SPACE, ' '), { type: 'ByteFallback' }, { type: 'Fuse' }]
const STRIP = { type: 'Strip', content: ' ', start: 1, stop: 0 }

/** Equality of JSON values; absent and null are the same. */
function equals(a: unknown, b: unknown): boolean {
  if ((a ?? null) === (b ?? null)) return true
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((value, i) => equals(value, b[i]))
  }
  if (!isObject(a) || !isObject(b)) return false
  return [...Object.keys(a), ...Object.keys(b)].every((key) => {
    const own = (object: Json) => (Object.hasOwn(object, key) ? object[key] : undefined)
    return equals(own(a), own(b))
  })
}

/** The parts of a sequence, or the one part that stands alone. */
function partsOf(component: unknown, name: string): readonly unknown[] {
  const list = isObject(component) && component['type'] === 'Sequence' ? component[name] : undefined
  return Array.isArray(list) ? list : [component]
}

/**
 * The pipeline of a tokenizer.json.
 * @throws UserError naming the first component that is none of the table's
 */
export function pipelineOf(path: string, whole: Json, model: Json): Pipeline {
  const refuse = (what: string, found: unknown): never => {
    throw new UserError(
      `${path}: only BPE tokenizers like those of OPT, GPT-2, Llama, Mistral, Qwen, SmolLM, Phi-3 and ` +
        `Gemma are supported, but ${what} is ${excerpt(found)}`,
    )
  }
  const kind = model['type'] ?? (model['merges'] ? 'BPE' : undefined)
  if (kind !== 'BPE') refuse('model.type', kind)
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout']) {
    if (model[key]) refuse(`model.${key}`, model[key])
  }
  const { decoder } = whole
  if (isObject(decoder) && decoder['type'] === 'ByteLevel')
    return bytePipeline(whole, model, refuse)
  const strips = equals(decoder, { type: 'Sequence', decoders: [...FALLBACK, STRIP] })
  if (!strips && !equals(decoder, { type: 'Sequence', decoders: FALLBACK }))
    refuse('decoder', decoder)
  return { ...spacePipeline(whole, model, refuse), strips }
}

type Refuse = (what: string, found: unknown) => never

function bytePipeline(whole: Json, model: Json, refuse: Refuse): BytePipeline {
  const { normalizer, pre_tokenizer: pre } = whole
  if (model['byte_fallback']) refuse('model.byte_fallback', model['byte_fallback'])
  const nfc = equals(normalizer, { type: 'NFC' })
  if (!nfc && !equals(normalizer, null)) refuse('normalizer', normalizer)
  const parts = partsOf(pre, 'pretokenizers')
  const last = parts.at(-1)
  if (!isObject(last) || last['type'] !== 'ByteLevel') return refuse('pre_tokenizer', pre)
  const patterns = parts
    .slice(0, -1)
    .map((part) => wordPattern(part) ?? refuse('pre_tokenizer', pre))
  if (nfc && patterns.length === 0) refuse('normalizer', normalizer)
  const hasWords = last['use_regex'] !== false
  if (!hasWords && patterns.length === 0) refuse('pre_tokenizer', pre)
  return {
    kind: 'bytes',
    isGpt2: parts.length === 1 && !nfc && !model['ignore_merges'],
    nfc,
    words: [...patterns, ...(hasWords ? [GPT2_WORDS] : [])],
    addPrefixSpace: last['add_prefix_space'] === true,
    ignoreMerges: model['ignore_merges'] === true,
  }
}

/** The pattern to run for a pre-tokenizer before ByteLevel, if it is a known one. */
function wordPattern(part: unknown): string | undefined {
  // Digits is \p{N} in Hugging Face, and ASCII's in the package.
  if (equals(part, { type: 'Digits', individual_digits: true })) return DIGIT
  const split = (pattern: string) => ({
    type: 'Split',
    pattern: { Regex: pattern },
    behavior: 'Isolated',
    invert: false,
  })
  const known = KNOWN_WORDS.find((pattern) => equals(part, split(pattern)))
  return known && runnable(known)
}

function spacePipeline(whole: Json, model: Json, refuse: Refuse): Omit<SpacePipeline, 'strips'> {
  const { normalizer, pre_tokenizer: pre } = whole
  if (model['byte_fallback'] !== true) refuse('model.byte_fallback', model['byte_fallback'])
  if (model['ignore_merges']) refuse('model.ignore_merges', model['ignore_merges'])
  const made = { kind: 'spaces', isNormalizer: true } as const
  if (equals(normalizer, null)) {
    const prepend = metaspace(pre) ?? refuse('pre_tokenizer', pre)
    return { ...made, prepend, isNormalizer: false }
  }
  // The split finds nothing: the normalizer has left no spaces.
  if (!equals(pre, null) && !equals(pre, SPLIT_SPACES)) refuse('pre_tokenizer', pre)
  if (equals(normalizer, PREPEND)) return { ...made, prepend: 'each' }
  if (equals(normalizer, spaces(' ', SPACE))) return { ...made, prepend: 'never' }
  return refuse('normalizer', normalizer)
}

/** Which texts a Metaspace that does not split puts ▁ before; files before 2024 say add_prefix_space. */
function metaspace(pre: unknown): SpacePipeline['prepend'] | undefined {
  if (!isObject(pre) || pre['type'] !== 'Metaspace' || pre['split'] !== false) return undefined
  if (pre['replacement'] !== SPACE) return undefined
  const scheme = pre['prepend_scheme'] ?? (pre['add_prefix_space'] === false ? 'never' : 'always')
  return (['never', 'always', 'first'] as const).find((known) => known === scheme)
}

/** GPT-2's pipeline, for files that have no tokenizer.json. */
export const GPT2_PIPELINE: BytePipeline = {
  kind: 'bytes',
  isGpt2: true,
  nfc: false,
  words: [GPT2_WORDS],
  addPrefixSpace: false,
  ignoreMerges: false,
}
