// The tokenizer of a model as metadata of a GGUF file: of a folder from tokenizer.json (or GPT-2's vocab.json and
// merges.txt) and the settings beside it, of another GGUF file as that has it. What llama.cpp has no name for is
// refused.
// Source: llama.cpp's conversion/base.py (get_vocab_base, SpecialVocab).

import { join } from 'node:path'
import { PRE } from '../checkpoint/gguf/tokenizer.ts'
import type { GgufValue } from '../checkpoint/gguf/header.ts'
import type { Written } from '../checkpoint/gguf/write.ts'
import { readText } from '../data/whole-file.ts'
import type { LoadedModel } from '../engine/load.ts'
import { UserError } from '../util/errors.ts'
import { excerpt, isObject, parseJson, quote, type Json } from '../util/untrusted.ts'

const MAX_FILE_BYTES = 128 * 2 ** 20
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE] = [1, 2, 3, 4, 5, 6]

type Loaded = Pick<LoadedModel, 'dir' | 'checkpoint' | 'model'>

/** @throws UserError for a tokenizer that the format has no name for */
export async function tokenizerMetadata({ dir, checkpoint, model }: Loaded): Promise<Written[]> {
  if (checkpoint.gguf) {
    const own = [...checkpoint.gguf].filter(([key]) => key.startsWith('tokenizer.'))
    return own.flatMap(([key, value]) => asWritten(key, value))
  }
  const path = join(dir, 'tokenizer.json')
  const whole = (await readJson(path)) ?? (await fromOldFiles(dir))
  if (!whole) return [['tokenizer.ggml.model', 'text', 'no_vocab']]
  const settings = (await readJson(join(dir, 'tokenizer_config.json'))) ?? {}
  const map = (await readJson(join(dir, 'special_tokens_map.json'))) ?? {}
  const template =
    (await readText(join(dir, 'chat_template.jinja'), MAX_FILE_BYTES)) ?? settings['chat_template']
  const made = vocabularyOf(path, whole, model.vocabSize)
  const id = (role: string): number | undefined => {
    const named = settings[role] ?? map[role]
    const content = isObject(named) ? named['content'] : named
    const found = typeof content === 'string' ? made.tokens.indexOf(content) : -1
    return found < 0 ? undefined : found
  }
  const roles = [
    ['bos', id('bos_token')],
    ['eos', id('eos_token') ?? idIn(checkpoint.config['eos_token_id'])],
    ['unknown', id('unk_token')],
    ['padding', id('pad_token')],
  ] as const
  return [
    ...made.metadata,
    ...roles.flatMap(([role, value]): Written[] =>
      value === undefined ? [] : [[`tokenizer.ggml.${role}_token_id`, 'u32', value]],
    ),
    ['tokenizer.ggml.add_bos_token', 'bool', addsBos(whole, settings)],
    ...(typeof template === 'string'
      ? [['tokenizer.chat_template', 'text', template] as const]
      : []),
  ]
}

const idIn = (value: unknown): number | undefined => {
  const first: unknown = Array.isArray(value) ? value[0] : value
  return Number.isInteger(first) ? (first as number) : undefined
}

/** As it was read; numbers of a tokenizer are ids, types and scores. */
function asWritten(key: string, value: GgufValue): Written[] {
  const first = Array.isArray(value) ? (value as readonly unknown[])[0] : value
  if (typeof first === 'string') return [[key, 'text', value as string | string[]]]
  if (typeof first === 'boolean') return [[key, 'bool', value as boolean | boolean[]]]
  if (typeof first !== 'number') return []
  const type = key.endsWith('scores') ? 'f32' : key.endsWith('token_type') ? 'i32' : 'u32'
  return [[key, type, value as number | number[]]]
}

async function readJson(path: string): Promise<Json | undefined> {
  const text = await readText(path, MAX_FILE_BYTES)
  const value = text === undefined ? undefined : parseJson(text, path)
  if (value === undefined || isObject(value)) return value
  throw new UserError(`${path} must hold a JSON object, not ${excerpt(value)}`)
}

/** GPT-2's two files as the tokenizer.json that they mean. */
async function fromOldFiles(dir: string): Promise<Json | undefined> {
  const vocab = await readJson(join(dir, 'vocab.json'))
  const merges = await readText(join(dir, 'merges.txt'), MAX_FILE_BYTES)
  if (!vocab || merges === undefined) return undefined
  const lines = merges.split('\n').map((line) => line.trim())
  const own = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')))
  return { model: { type: 'BPE', vocab, merges: own }, pre_tokenizer: PRE['gpt-2']!.pre_tokenizer }
}

/** Tokens by id with their types, and how they are found. */
function vocabularyOf(path: string, whole: Json, rows: number) {
  const model = isObject(whole['model']) ? whole['model'] : {}
  const vocab = isObject(model['vocab']) ? model['vocab'] : {}
  const added = (Array.isArray(whole['added_tokens']) ? whole['added_tokens'] : []).filter(isObject)
  const isBytes = model['byte_fallback'] !== true
  if (model['type'] !== undefined && model['type'] !== 'BPE') {
    throw new UserError(
      `${path}: a tokenizer of type ${excerpt(model['type'])} cannot be written as GGUF; those of type BPE can`,
    )
  }
  const tokens = new Array<string>(rows).fill('')
  const types = new Array<number>(rows).fill(UNUSED)
  const put = (token: string, id: unknown, type: number) => {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= rows) {
      throw new UserError(
        `${path}: the token ${quote(token)} has id ${excerpt(id)}, and the model ${rows} rows; take tokenizer and weights of the same model`,
      )
    }
    tokens[id as number] = token
    types[id as number] = type
  }
  for (const [token, id] of Object.entries(vocab)) {
    const isByte = !isBytes && /^<0x[0-9A-F]{2}>$/.test(token)
    put(token, id, token === model['unk_token'] ? UNKNOWN : isByte ? BYTE : NORMAL)
  }
  for (const { content, id, special } of added) {
    if (content === model['unk_token'] && !isBytes) continue
    put(String(content), id, special === true ? CONTROL : USER_DEFINED)
  }
  types.forEach((type, id) => {
    if (type === UNUSED) tokens[id] = `[PAD${id}]`
  })
  const merges = pairs(path, model['merges'])
  const metadata: Written[] = [
    ['tokenizer.ggml.model', 'text', isBytes ? 'gpt2' : 'llama'],
    ['tokenizer.ggml.pre', 'text', isBytes ? preOf(path, whole) : 'default'],
    ['tokenizer.ggml.tokens', 'text', tokens],
    ['tokenizer.ggml.token_type', 'i32', types],
    ['tokenizer.ggml.merges', 'text', merges.map(([left, right]) => `${left} ${right}`)],
  ]
  if (!isBytes) {
    metadata.push(['tokenizer.ggml.scores', 'f32', scoresOf(tokens, merges)])
    metadata.push([
      'tokenizer.ggml.add_space_prefix',
      'bool',
      /"Prepend"|"(first|always)"/.test(
        JSON.stringify([whole['normalizer'], whole['pre_tokenizer']]),
      ),
    ])
  }
  return { tokens, metadata }
}

function pairs(path: string, merges: unknown): [string, string][] {
  const list: unknown[] = Array.isArray(merges) ? merges : []
  return list.map((merge) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge
    const isPair = Array.isArray(pair) && pair.length === 2
    // The format has one text for each.
    if (isPair && pair.every((part) => typeof part === 'string' && !part.includes(' '))) {
      return pair as [string, string]
    }
    throw new UserError(`${path}: the merge ${excerpt(merge)} cannot be written as GGUF`)
  })
}

/** The first merge that makes a token is what SentencePiece's scores order; what no merge makes comes last. */
function scoresOf(tokens: readonly string[], merges: readonly [string, string][]): number[] {
  const rank = new Map<string, number>()
  merges.forEach(([left, right], i) => {
    if (!rank.has(left + right)) rank.set(left + right, i)
  })
  return tokens.map((token) => -(rank.get(token) ?? merges.length))
}

/** llama.cpp's name of what splits a text into words. */
function preOf(path: string, whole: Json): string {
  const own = signature(whole['pre_tokenizer'])
  const normalizer = isObject(whole['normalizer']) ? whole['normalizer']['type'] : undefined
  const model = isObject(whole['model']) ? whole['model'] : {}
  const names = Object.keys(PRE).filter((name) => name !== 'default')
  const found = names.find((name) => {
    const { pre_tokenizer: pre, ignoreMerges } = PRE[name]!
    return signature(pre) === own && (ignoreMerges ?? false) === (model['ignore_merges'] ?? false)
  })
  const fits = normalizer === undefined || (found === 'qwen2' && normalizer === 'NFC')
  if (found !== undefined && fits) return found
  throw new UserError(
    `${path}: its pre_tokenizer ${excerpt(whole['pre_tokenizer'])} has no name in GGUF that is written here; those are ${names.join(', ')}`,
  )
}

/** What a pre-tokenizer does, in one line. */
function signature(pre: unknown): string {
  if (!isObject(pre)) return 'none'
  const parts = Array.isArray(pre['pretokenizers']) ? pre['pretokenizers'] : [pre]
  return parts
    .filter(isObject)
    .map(({ type, pattern, use_regex: regex, individual_digits: digits }) =>
      [type, isObject(pattern) ? Object.values(pattern)[0] : '', regex !== false, digits].join(' '),
    )
    .join(' + ')
}

/** Whether texts begin with BOS: by the post-processor where there is one, else by the settings. */
function addsBos(whole: Json, settings: Json): boolean {
  const text = JSON.stringify(whole['post_processor'] ?? null)
  if (text.includes('TemplateProcessing')) return /"single":\[\{"SpecialToken"/.test(text)
  return settings['add_bos_token'] === true
}
