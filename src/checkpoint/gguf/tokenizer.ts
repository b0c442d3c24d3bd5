// From the metadata of a GGUF file to the tokenizer.json and tokenizer_config.json that its model has on the hub:
// byte-level BPE by the name of its pre-tokenizer, or SentencePiece's BPE. What they mean is src/data's matter.
// Source: transformers, integrations/gguf/gguf_tokenizer_mapping.py and generate_merges; llama.cpp's llama-vocab.cpp
// for the names; patterns are those of each family's own tokenizer.json.

import { UserError } from '../../util/errors.ts'
import { describe, quote } from '../../util/untrusted.ts'
import type { GgufValue, Metadata } from './header.ts'

/** The files of a tokenizer, as objects. */
export interface TokenizerObjects {
  /** tokenizer.json. */
  readonly tokenizer: Readonly<Record<string, unknown>>
  /** tokenizer_config.json. */
  readonly settings: Readonly<Record<string, unknown>>
  /** Ids that end a text. */
  readonly ends: readonly number[]
}

const LLAMA3_WORDS = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const QWEN2_WORDS = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

const byteLevel = (regex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: regex,
})

const sequence = (...pretokenizers: object[]) => ({ type: 'Sequence', pretokenizers })

const split = (Regex: string) =>
  sequence(
    { type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false },
    byteLevel(false),
  )

interface Pre {
  readonly pre_tokenizer: object
  readonly normalizer?: object
  /** A word that is a token is taken whole. */
  readonly ignoreMerges?: true
  /** Whether texts begin with BOS where the metadata does not say. */
  readonly addsBos?: true
}

/** Pre-tokenizers of byte-level BPE by tokenizer.ggml.pre. */
export const PRE: Readonly<Record<string, Pre>> = {
  default: { pre_tokenizer: byteLevel(true) },
  'gpt-2': { pre_tokenizer: byteLevel(true) },
  smollm: {
    pre_tokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)),
  },
  'llama-bpe': { pre_tokenizer: split(LLAMA3_WORDS), ignoreMerges: true, addsBos: true },
  qwen2: { pre_tokenizer: split(QWEN2_WORDS), normalizer: { type: 'NFC' } },
}

const [CONTROL, USER_DEFINED] = [3, 4]

/** @throws UserError for a tokenizer that is not known, and for lists that do not fit together */
export function ggufTokenizer(file: string, metadata: Metadata): TokenizerObjects {
  const read = reader(file, metadata)
  const kind = metadata.get('tokenizer.ggml.model')
  if (kind !== 'gpt2' && kind !== 'llama') {
    throw new UserError(
      `${file}: tokenizer.ggml.model ${describe(kind)} is not supported; supported: gpt2, llama`,
    )
  }
  const tokens = read.texts('tokens') ?? []
  const vocab = vocabulary(file, tokens)
  const types = read.numbers('token_type') ?? []
  if (types.length > 0 && types.length !== tokens.length) {
    throw read.mismatch('token_type', tokens.length, types.length)
  }
  const own =
    kind === 'gpt2' ? bytePairs(file, metadata, read, vocab) : sentencePiece(metadata, read, vocab)
  const added = tokens.flatMap((content, id) => {
    if (types[id] !== CONTROL && types[id] !== USER_DEFINED) return []
    const rules = { single_word: false, lstrip: false, rstrip: false, normalized: false }
    return [{ id, content, ...rules, special: types[id] === CONTROL }]
  })
  const bos = read.token('bos', tokens)
  const [addsBos, addsEos] = [read.flag('add_bos_token') ?? own.addsBos, read.flag('add_eos_token')]
  const named = {
    bos_token: bos,
    eos_token: read.token('eos', tokens),
    unk_token: read.token('unknown', tokens),
    pad_token: read.token('padding', tokens),
  }
  const template = metadata.get('tokenizer.chat_template')
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added,
      ...own.parts,
      post_processor: processor(
        addsBos ? named.bos_token : undefined,
        addsEos === true ? named.eos_token : undefined,
        vocab,
      ),
    },
    settings: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      add_bos_token: addsBos && bos !== undefined,
      ...named,
      ...(typeof template === 'string' && { chat_template: template }),
      clean_up_tokenization_spaces: false,
    },
    ends: [...new Set(['eos', 'eot', 'eom'].flatMap((role) => read.id(role, tokens) ?? []))],
  }
}

type Reader = ReturnType<typeof reader>

/** Values of tokenizer.ggml. */
function reader(file: string, metadata: Metadata) {
  const find = (key: string): GgufValue | undefined => metadata.get(`tokenizer.ggml.${key}`)
  const wrong = (key: string, expected: string, found: unknown) =>
    new UserError(
      `${file}: expected tokenizer.ggml.${key} to be ${expected}, found ${describe(found)}; take another file of the model`,
    )
  const list = (key: string, type: 'string' | 'number'): readonly unknown[] | undefined => {
    const value = find(key)
    if (value === undefined) return undefined
    if (Array.isArray(value) && value.every((v) => typeof v === type)) return value
    throw wrong(key, `a list of ${type}s`, value)
  }
  const id = (role: string, tokens: readonly string[]): number | undefined => {
    const value = find(`${role}_token_id`)
    if (value === undefined) return undefined
    if (typeof value === 'number' && tokens[value] !== undefined) return value
    throw wrong(`${role}_token_id`, `an id below ${tokens.length}`, value)
  }
  return {
    texts: (key: string) => list(key, 'string') as readonly string[] | undefined,
    numbers: (key: string) => list(key, 'number') as readonly number[] | undefined,
    flag: (key: string): boolean | undefined => {
      const value = find(key)
      if (value === undefined || typeof value === 'boolean') return value
      throw wrong(key, 'true or false', value)
    },
    id,
    token: (role: string, tokens: readonly string[]): string | undefined => {
      const value = id(role, tokens)
      return value === undefined ? undefined : tokens[value]
    },
    mismatch: (key: string, expected: number, found: number) =>
      wrong(key, `a list of ${expected}, as there are tokens`, found),
  }
}

function vocabulary(file: string, tokens: readonly string[]): Map<string, number> {
  const vocab = new Map<string, number>()
  tokens.forEach((token, id) => {
    if (vocab.has(token)) {
      throw new UserError(
        `${file}: expected each token once, found ${quote(token)} as ${vocab.get(token)} and ${id}; take another file of the model`,
      )
    }
    vocab.set(token, id)
  })
  if (vocab.size > 0) return vocab
  throw new UserError(
    `${file}: expected a tokenizer in the metadata, found no tokenizer.ggml.tokens; take another file of the model`,
  )
}

function bytePairs(file: string, metadata: Metadata, read: Reader, vocab: Map<string, number>) {
  const name = metadata.get('tokenizer.ggml.pre') ?? 'default'
  const pre = typeof name === 'string' && Object.hasOwn(PRE, name) ? PRE[name] : undefined
  if (!pre) {
    throw new UserError(
      `${file}: tokenizer.ggml.pre ${describe(name)} is not supported; supported: ${Object.keys(PRE).join(', ')}`,
    )
  }
  const merges = (read.texts('merges') ?? []).map((merge) => merge.split(' '))
  return {
    addsBos: pre.addsBos ?? false,
    parts: {
      normalizer: pre.normalizer ?? null,
      pre_tokenizer: pre.pre_tokenizer,
      decoder: byteLevel(true),
      model: {
        ...bpe(vocab, merges),
        unk_token: null,
        ...(pre.ignoreMerges && { ignore_merges: true }),
      },
    },
  }
}

/** As the tokenizer.json of Llama 2 has it, and of Gemma, which puts no space before a text. */
function sentencePiece(metadata: Metadata, read: Reader, given: Map<string, number>) {
  const isGemma = /^gemma/.test(String(metadata.get('general.architecture')))
  const vocab = isGemma ? new Map([...given].map(([t, id]) => [respelled(t), id])) : given
  const scores = read.numbers('scores')
  if (scores?.length !== given.size) {
    throw read.mismatch('scores', given.size, scores?.length ?? 0)
  }
  const tokens = [...vocab.keys()]
  const merges =
    read.texts('merges')?.map((merge) => merge.split(' ')) ??
    derivedMerges(tokens, vocab, isGemma ? (id) => -id : (id) => scores[id]!)
  const hasSpace = read.flag('add_space_prefix') ?? !isGemma
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
  return {
    addsBos: true,
    parts: {
      normalizer: {
        type: 'Sequence',
        normalizers: [...(hasSpace ? [{ type: 'Prepend', prepend: '▁' }] : []), spaces],
      },
      pre_tokenizer: null,
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          ...(hasSpace ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
        ],
      },
      model: {
        ...bpe(vocab, merges),
        unk_token: read.token('unknown', tokens) ?? null,
        fuse_unk: true,
        byte_fallback: true,
      },
    },
  }
}

/** Gemma's files have tokens of spaces as such. */
const respelled = (token: string): string => (/^ +$/.test(token) ? '▁'.repeat(token.length) : token)

const bpe = (vocab: ReadonlyMap<string, number>, merges: readonly (readonly string[])[]) => ({
  type: 'BPE',
  dropout: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
  vocab: Object.fromEntries(vocab),
  merges,
})

/** Longer tokens are no words of a text: what is made of one grows with the square of its length. */
const MOST_CHARACTERS = 1024

/** A token as two others, by their ids and lengths. */
interface Halves {
  readonly pair: [string, string]
  readonly score: number
  readonly left: number
  readonly right: number
  readonly leftSize: number
  readonly rightSize: number
}

/** Every way to make a token of two others, the best token first. */
function derivedMerges(
  tokens: readonly string[],
  vocab: ReadonlyMap<string, number>,
  scoreOf: (id: number) => number,
): [string, string][] {
  const found: Halves[] = []
  tokens.forEach((token, id) => {
    const characters = Array.from(token)
    if (characters.length > MOST_CHARACTERS) return
    const own: Halves[] = []
    let at = 0
    for (let i = 1; i < characters.length; i++) {
      at += characters[i - 1]!.length
      const left = vocab.get(token.slice(0, at))
      const right = left === undefined ? undefined : vocab.get(token.slice(at))
      if (left === undefined || right === undefined) continue
      const pair: [string, string] = [token.slice(0, at), token.slice(at)]
      const sizes = { leftSize: i, rightSize: characters.length - i }
      own.push({ pair, score: scoreOf(id), left, right, ...sizes })
    }
    if (own.length > 1) own.sort((x, y) => x.left - y.left || x.right - y.right)
    for (const each of own) found.push(each)
  })
  found.sort((x, y) => y.score - x.score || y.leftSize - x.leftSize || y.rightSize - x.rightSize)
  return found.map(({ pair }) => pair)
}

/** What stands around a text. */
function processor(
  bos: string | undefined,
  eos: string | undefined,
  vocab: ReadonlyMap<string, number>,
): object | null {
  const tokens = [bos, eos].filter((token) => token !== undefined)
  if (tokens.length === 0) return null
  const special = (id: string) => ({ SpecialToken: { id, type_id: 0 } })
  const around = (type_id: number, id: string) => [
    ...(bos === undefined ? [] : [special(bos)]),
    { Sequence: { id, type_id } },
    ...(eos === undefined ? [] : [special(eos)]),
  ]
  return {
    type: 'TemplateProcessing',
    single: around(0, 'A'),
    pair: [...around(0, 'A'), ...around(1, 'B')],
    special_tokens: Object.fromEntries(
      tokens.map((id) => [id, { id, ids: [vocab.get(id)], tokens: [id] }]),
    ),
  }
}
