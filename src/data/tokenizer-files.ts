// Reads a folder's tokenizer files and checks every claim in them; tokenizer.ts turns the result
// into ids. Two forms: `tokenizer.json`, and OPT's older `vocab.json` + `merges.txt`, each with the
// optional `tokenizer_config.json` and `special_tokens_map.json`. Byte-level BPE only: GPT-2's
// pre-tokenizer and nothing configurable, so that no pattern from a file is ever run.
// Source of the rules: transformers `convert_slow_tokenizer.py` (GPT2Converter), tokenizers `bpe`.

import { join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { readText } from './whole-file.ts'
import { excerpt, isObject, parseJson, type Json } from '../util/untrusted.ts'

/** A token that is found in a text before anything else is. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
  readonly lstrip: boolean
  readonly rstrip: boolean
}

/** A checked byte-level BPE tokenizer. */
export interface TokenizerFiles {
  /** Token to id; with the added tokens, the ids are 0 .. n-1, each once. */
  readonly vocab: ReadonlyMap<string, number>
  readonly merges: readonly (readonly [string, string])[]
  readonly added: readonly AddedToken[]
  readonly bosId: number
  readonly eosId: number
  readonly padId: number
  /** Whether this tokenizer's own rule puts BOS before a text. */
  readonly addsBos: boolean
  /** Whether decoding removes spaces before punctuation, as old configurations ask. */
  readonly cleansUp: boolean
}

// The largest tokenizer.json in wide use has 33 MB.
const MAX_FILE_BYTES = 128 * 2 ** 20

/**
 * Reads and checks the tokenizer of a model folder.
 * @throws UserError naming the file and its first fault
 */
export async function readTokenizerFiles(dir: string): Promise<TokenizerFiles> {
  const settings = await readJson(join(dir, 'tokenizer_config.json'))
  const config = { ...(await readJson(join(dir, 'special_tokens_map.json'))), ...settings }
  const path = join(dir, 'tokenizer.json')
  const whole = await readJson(path)
  if (whole) return finish(path, fromTokenizerJson(path, whole), config)

  const vocabPath = join(dir, 'vocab.json')
  const mergesPath = join(dir, 'merges.txt')
  const vocab = await readJson(vocabPath)
  const merges = await readText(mergesPath, MAX_FILE_BYTES)
  if (!vocab || merges === undefined) {
    throw new UserError(
      `no tokenizer in ${dir}: expected tokenizer.json, or vocab.json and merges.txt`,
    )
  }
  const parts = {
    vocab: checkVocab(vocabPath, vocab),
    merges: parseMerges(mergesPath, merges),
    added: addedByConfig(config),
    // Hugging Face's rule is the flag; a folder without any settings is taken as OPT's.
    addsBos: settings === undefined,
  }
  return finish(vocabPath, parts, config, mergesPath)
}

interface Parts {
  vocab: Map<string, number>
  merges: [string, string][]
  added: AddedToken[]
  addsBos: boolean
}

function finish(path: string, parts: Parts, config: Json, mergesPath = path): TokenizerFiles {
  const { vocab, merges } = parts
  for (const [index, [left, right]] of merges.entries()) {
    const unknown = [left, right, left + right].find((token) => !vocab.has(token))
    if (unknown !== undefined) {
      throw new UserError(
        `${mergesPath}: merge ${index + 1} (${left} ${right}) needs the token ` +
          `${JSON.stringify(unknown)}, which the vocabulary lacks: these files do not match`,
      )
    }
  }
  const special = specialTokens(path, vocab, parts.added, config)
  const ids = new Map(vocab)
  for (const token of special.added) ids.set(token.content, token.id)
  checkIds(path, ids)
  return {
    vocab,
    merges,
    ...special,
    addsBos: parts.addsBos || config['add_bos_token'] === true,
    cleansUp: config['clean_up_tokenization_spaces'] === true,
  }
}

/** BOS, EOS and padding by the configuration, else by OPT's habit; all become added tokens. */
function specialTokens(
  path: string,
  vocab: ReadonlyMap<string, number>,
  fromFile: readonly AddedToken[],
  config: Json,
): Pick<TokenizerFiles, 'added' | 'bosId' | 'eosId' | 'padId'> {
  const added = new Map(fromFile.map((token) => [token.content, token]))
  const resolve = (role: string, habit?: string): number | undefined => {
    const named = tokenText(config[role])
    const content = named ?? habit
    if (content === undefined) return undefined
    const id = added.get(content)?.id ?? vocab.get(content)
    if (id === undefined && named !== undefined) {
      throw new UserError(
        `${path}: the ${role} ${JSON.stringify(content)} is not in the vocabulary`,
      )
    }
    if (id !== undefined && !added.get(content)?.special) {
      added.set(content, { ...stripping(config[role]), id, content, special: true })
    }
    return id
  }
  const eosId = resolve('eos_token', '</s>')
  const bosId = resolve('bos_token', '</s>') ?? eosId
  if (eosId === undefined || bosId === undefined) {
    throw new UserError(
      `${path}: the vocabulary has no </s>, and tokenizer_config.json names no bos_token and ` +
        `eos_token: name them there`,
    )
  }
  for (const role of ['unk_token', 'sep_token', 'cls_token', 'mask_token']) resolve(role)
  const padId = resolve('pad_token', '<pad>') ?? eosId
  return { added: [...added.values()], bosId, eosId, padId }
}

/** Added tokens as tokenizer_config.json lists them (`added_tokens_decoder`: id to token). */
function addedByConfig(config: Json): AddedToken[] {
  const listed = config['added_tokens_decoder']
  if (!isObject(listed)) return []
  return Object.entries(listed).map(([id, token]) =>
    checkAdded('tokenizer_config.json', { ...(isObject(token) ? token : {}), id: Number(id) }),
  )
}

function fromTokenizerJson(path: string, whole: Json): Parts {
  const model = isObject(whole['model']) ? whole['model'] : {}
  const require = (what: string, ok: boolean, found: unknown): void => {
    if (ok) return
    throw new UserError(
      `${path}: only byte-level BPE tokenizers like OPT's and GPT-2's are supported, ` +
        `but ${what} is ${excerpt(found)}`,
    )
  }
  const kind = model['type'] ?? (model['merges'] ? 'BPE' : undefined)
  require('model.type', kind === 'BPE', kind)
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout'] as const) {
    require(`model.${key}`, !model[key], model[key])
  }
  for (const key of ['byte_fallback', 'ignore_merges'] as const) {
    require(`model.${key}`, !model[key], model[key])
  }
  require('normalizer', (whole['normalizer'] ?? null) === null, whole['normalizer'])
  const pre = isObject(whole['pre_tokenizer']) ? whole['pre_tokenizer'] : {}
  const plain =
    pre['type'] === 'ByteLevel' && !pre['add_prefix_space'] && pre['use_regex'] !== false
  require('pre_tokenizer', plain, whole['pre_tokenizer'])
  const decoder = isObject(whole['decoder']) ? whole['decoder'] : {}
  require('decoder', decoder['type'] === 'ByteLevel', whole['decoder'])

  const listed = whole['added_tokens'] ?? []
  if (!Array.isArray(listed)) throw new UserError(`${path}: added_tokens must be an array`)
  return {
    vocab: checkVocab(path, model['vocab']),
    merges: checkMerges(path, model['merges']),
    added: listed.map((token) => checkAdded(path, token)),
    addsBos: templateAddsBos(path, whole['post_processor']),
  }
}

/** Whether a post-processor puts one special token first; anything more is refused. */
function templateAddsBos(path: string, processor: unknown): boolean {
  if (!isObject(processor) || processor['type'] === 'ByteLevel') return false
  if (processor['type'] === 'Sequence' && Array.isArray(processor['processors'])) {
    return processor['processors'].some((part) => templateAddsBos(path, part))
  }
  const single = processor['type'] === 'TemplateProcessing' ? processor['single'] : undefined
  const shape = Array.isArray(single)
    ? single.map((part) => Object.keys(isObject(part) ? part : {})[0]).join(' ')
    : ''
  if (shape === 'Sequence') return false
  if (shape === 'SpecialToken Sequence') return true
  throw new UserError(
    `${path}: the post_processor ${excerpt(processor)} is not supported: ` +
      `expected one that adds nothing or a single token before the text`,
  )
}

function checkVocab(path: string, vocab: unknown): Map<string, number> {
  if (!isObject(vocab) || Object.keys(vocab).length === 0) {
    throw new UserError(`${path}: the vocabulary must be an object from tokens to ids`)
  }
  return new Map(Object.entries(vocab) as [string, number][])
}

/** Ids must be 0 .. n-1, each once: they index the rows of an embedding. */
function checkIds(path: string, vocab: ReadonlyMap<string, number>): void {
  const owners = new Array<string | undefined>(vocab.size)
  for (const [token, id] of vocab) {
    if (!Number.isInteger(id) || id < 0 || id >= vocab.size) {
      throw new UserError(
        `${path}: the id of token ${JSON.stringify(token)} must be an integer from 0 to ` +
          `${vocab.size - 1} (there are ${vocab.size} tokens), but it is ${JSON.stringify(id)}`,
      )
    }
    if (owners[id] !== undefined) {
      const both = `${JSON.stringify(owners[id])} and ${JSON.stringify(token)}`
      throw new UserError(`${path}: the tokens ${both} both have id ${id}, but ids must be unique`)
    }
    owners[id] = token
  }
}

/** merges.txt: a `#version` line, then two tokens a line, in order of rank. */
function parseMerges(path: string, text: string): [string, string][] {
  const lines = text.split(/\r?\n/)
  const first = lines[0]!.startsWith('#version') ? 1 : 0
  if (lines.at(-1) === '') lines.pop()
  return lines.slice(first).map((line, i) => checkPair(`${path}:${first + i + 1}`, line))
}

function checkMerges(path: string, merges: unknown): [string, string][] {
  if (!Array.isArray(merges)) throw new UserError(`${path}: model.merges must be an array`)
  return merges.map((merge, i) => checkPair(`${path}: merge ${i + 1}`, merge))
}

function checkPair(where: string, merge: unknown): [string, string] {
  const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge
  const ok = Array.isArray(pair) && pair.length === 2 && pair.every((t) => typeof t === 'string')
  if (ok && pair[0] && pair[1]) return pair as [string, string]
  throw new UserError(
    `${where}: expected two tokens with one space between them, ` + `found ${excerpt(merge)}`,
  )
}

function checkAdded(path: string, token: unknown): AddedToken {
  const { id, content, special } = isObject(token) ? token : {}
  if (typeof id !== 'number' || typeof content !== 'string' || content === '') {
    throw new UserError(
      `${path}: an added token must have an id and a content, ` + `found ${excerpt(token)}`,
    )
  }
  return { ...stripping(token), id, content, special: special === true }
}

function stripping(token: unknown): Pick<AddedToken, 'lstrip' | 'rstrip'> {
  const { lstrip, rstrip } = isObject(token) ? token : {}
  return { lstrip: lstrip === true, rstrip: rstrip === true }
}

/** A special token stands as a string or as an object with its content. */
function tokenText(token: unknown): string | undefined {
  const text = isObject(token) ? token['content'] : token
  return typeof text === 'string' && text !== '' ? text : undefined
}

async function readJson(path: string): Promise<Json | undefined> {
  const text = await readText(path, MAX_FILE_BYTES)
  if (text === undefined) return undefined
  const value = parseJson(text, path)
  if (!isObject(value))
    throw new UserError(`${path} must hold a JSON object, not ${excerpt(value)}`)
  return value
}
