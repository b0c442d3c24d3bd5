// A folder's tokenizer files, and what they say together, as Hugging Face `transformers` reads them;
// tokenizer.ts turns the result into ids. Two forms: `tokenizer.json`, and GPT-2's older `vocab.json` +
// `merges.txt`, each with the optional `tokenizer_config.json`, `special_tokens_map.json` and
// `added_tokens.json`. What these leave open, tokenizer-defaults.ts says by the folder's model_type.
// Source of the rules: transformers `tokenization_utils_base.py`, `convert_slow_tokenizer.py`
// (GPT2Converter), tokenizers `bpe`; test/fixtures/tokenizers.json holds what they give.

import { join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { excerpt, isObject, parseJson, quote, type Json } from '../util/untrusted.ts'
import { fromTokenizerJson } from './tokenizer-json.ts'
import { defaultsFor, type Defaults } from './tokenizer-defaults.ts'
import {
  checkAdded,
  checkAddedIds,
  checkByteTokens,
  checkIds,
  checkVocab,
  parseMerges,
  stripping,
  type AddedToken,
  type Frame,
  type Parts,
} from './tokenizer-parts.ts'
import { GPT2_PIPELINE, type Pipeline } from './tokenizer-pipelines.ts'
import { readText } from './whole-file.ts'

/** A checked BPE tokenizer. */
export interface TokenizerFiles extends Frame {
  readonly pipeline: Pipeline
  /** Token to id; with the added tokens, every id is there once. */
  readonly vocab: ReadonlyMap<string, number>
  /** The tokens by their ids, the added ones among them; holes are undefined. */
  readonly tokens: readonly (string | undefined)[]
  readonly merges: readonly (readonly [string, string])[]
  readonly added: readonly AddedToken[]
  readonly bosId: number
  readonly eosId: number
  readonly padId: number
  /** Whether a text (and what follows an added token) is read as if a space stood before it. */
  readonly addsPrefixSpace: boolean
  /** Whether decoding removes spaces before punctuation, as old configurations ask. */
  readonly cleansUp: boolean
}

// The largest tokenizer.json in wide use has 33 MB.
const MAX_FILE_BYTES = 128 * 2 ** 20

/** Tokenizer classes that are GPT-2's, or whatever tokenizer.json says. */
const CLASSES = /^(GPT2Tokenizer|PreTrainedTokenizer|TokenizersBackend)(Fast)?$/
const GENERIC = /^(PreTrainedTokenizerFast|TokenizersBackend)$/

/**
 * Reads and checks the tokenizer of a model folder.
 * @throws UserError naming the file and its first fault
 */
export async function readTokenizerFiles(dir: string): Promise<TokenizerFiles> {
  const model = await readJson(join(dir, 'config.json'))
  const defaults = defaultsFor(model?.['model_type'])
  const settings = await readSettings(dir)
  const path = join(dir, 'tokenizer.json')
  const whole = await readJson(path)
  if (whole) return finish(path, fromTokenizerJson(path, whole), settings, defaults)

  const vocabPath = join(dir, 'vocab.json')
  const mergesPath = join(dir, 'merges.txt')
  const vocab = await readJson(vocabPath)
  const merges = await readText(mergesPath, MAX_FILE_BYTES)
  if (!vocab || merges === undefined) {
    throw new UserError(
      `no tokenizer in ${dir}: expected tokenizer.json, or vocab.json and merges.txt`,
    )
  }
  const name = settings.config['tokenizer_class'] ?? 'GPT2Tokenizer'
  if (typeof name !== 'string' || !CLASSES.test(name)) {
    throw new UserError(
      `${join(dir, 'tokenizer_config.json')}: vocab.json and merges.txt are read as those of ` +
        `GPT2Tokenizer, but tokenizer_class is ${excerpt(name)}: take the model's tokenizer.json`,
    )
  }
  const parts = {
    vocab: checkVocab(vocabPath, vocab),
    merges: parseMerges(mergesPath, merges),
    added: [],
    pipeline: GPT2_PIPELINE,
  }
  return finish(vocabPath, parts, settings, defaults, mergesPath)
}

/**
 * Checks a tokenizer.json and the tokenizer_config.json beside it that were made from another file, `path`.
 * @throws UserError naming their first fault
 */
export function tokenizerFilesOf(path: string, whole: Json, config: Json): TokenizerFiles {
  const settings = { config, added: [], isConfigured: true }
  return finish(path, fromTokenizerJson(path, whole), settings, defaultsFor('gpt2'))
}

/** What stands beside the vocabulary. */
interface Settings {
  readonly config: Json
  readonly added: readonly AddedToken[]
  /** Whether there is a tokenizer_config.json. */
  readonly isConfigured: boolean
}

/**
 * tokenizer_config.json, which since `transformers` 4.34 lists all added tokens; where it does not,
 * special_tokens_map.json comes before it and added_tokens.json beside it.
 */
async function readSettings(dir: string): Promise<Settings> {
  const path = join(dir, 'tokenizer_config.json')
  const config = await readJson(path)
  const isConfigured = config !== undefined
  const listed = config?.['added_tokens_decoder']
  if (config && isObject(listed)) {
    const added = Object.entries(listed).map(([id, token]) =>
      checkAdded(path, { ...(isObject(token) ? token : {}), id: Number(id) }),
    )
    return { config, added, isConfigured }
  }
  const merged = { ...config, ...(await readJson(join(dir, 'special_tokens_map.json'))) }
  const addedPath = join(dir, 'added_tokens.json')
  const entries = Object.entries((await readJson(addedPath)) ?? {})
  const added = entries.map(([content, id]) => checkAdded(addedPath, { content, id }))
  return { config: merged, added, isConfigured }
}

function finish(
  path: string,
  parts: Parts,
  settings: Settings,
  defaults: Defaults,
  mergesPath = path,
): TokenizerFiles {
  const { vocab, merges } = parts
  for (const [index, [left, right]] of merges.entries()) {
    const unknown = [left, right, left + right].find((token) => !vocab.has(token))
    if (unknown !== undefined) {
      throw new UserError(
        `${mergesPath}: merge ${index + 1} (${quote(`${left} ${right}`)}) needs the token ` +
          `${quote(unknown)}, which the vocabulary lacks: these files do not match`,
      )
    }
  }
  const { pipeline } = parts
  if (pipeline.kind === 'spaces') checkByteTokens(path, vocab)
  const special = specialTokens(path, parts, settings, defaults)
  const ids = new Map(vocab)
  for (const token of special.added) ids.set(token.content, token.id)
  const isGpt2 = pipeline.kind === 'bytes' && pipeline.isGpt2
  const tokens = checkIds(path, ids, isGpt2 ? 0 : HOLES)
  if (!isGpt2) checkAddedIds(path, vocab, special.added)
  const frame = frameOf(parts, settings, special.bosId, defaults)
  const beyond = [...frame.prefix, ...frame.suffix].find((id) => tokens[id] === undefined)
  if (beyond !== undefined) {
    throw new UserError(
      `${path}: the post_processor puts id ${beyond} before or after a text, but there are ` +
        `${ids.size} tokens`,
    )
  }
  const { config } = settings
  return {
    pipeline,
    vocab,
    tokens,
    merges,
    ...special,
    ...frame,
    addsPrefixSpace: isGpt2 ? addsSpace(pipeline, config) : false,
    // Of the other families `transformers` 5 ignores the setting, which Llama-3's files have.
    cleansUp: isGpt2 && flag(config, 'clean_up_tokenization_spaces'),
  }
}

/** Ids that a vocabulary may leave out: Phi-4's has some before its last tokens. */
const HOLES = 1024

/** The classes of one model pass their own flag, by default false, over the file's. */
function addsSpace({ addPrefixSpace }: { addPrefixSpace: boolean }, config: Json): boolean {
  const isGeneric = GENERIC.test(String(config['tokenizer_class']))
  return flag(config, 'add_prefix_space', isGeneric && addPrefixSpace)
}

/** What stands around a text: a tokenizer.json has the last word over add_bos_token, as in `transformers` 5. */
function frameOf(
  { frame }: Parts,
  { config, isConfigured }: Settings,
  bosId: number,
  defaults: Defaults,
): Frame {
  if (frame) return frame
  const asks = isConfigured ? flag(config, 'add_bos_token') : defaults.addsBos
  return { prefix: asks ? [bosId] : [], suffix: [] }
}

/** A setting that is on or off; null or absent is `usual`. */
function flag(config: Json, name: string, usual = false): boolean {
  const value = config[name] ?? usual
  if (typeof value === 'boolean') return value
  throw new UserError(`tokenizer_config.json: ${name} must be true or false, not ${excerpt(value)}`)
}

/** BOS, EOS and padding by the settings, else by the model's habit; all become added tokens. */
function specialTokens(
  path: string,
  { vocab, added: fromFile }: Parts,
  { config, added: fromSettings }: Settings,
  defaults: Defaults,
): Pick<TokenizerFiles, 'added' | 'bosId' | 'eosId' | 'padId'> {
  const added = new Map([...fromSettings, ...fromFile].map((token) => [token.content, token]))
  const resolve = (role: string, token: unknown, habit?: string): number | undefined => {
    const named = tokenText(role, token)
    const content = named ?? habit
    if (content === undefined) return undefined
    const id = added.get(content)?.id ?? vocab.get(content)
    if (id === undefined && named !== undefined) {
      throw new UserError(`${path}: the ${role} ${quote(content)} is not in the vocabulary`)
    }
    if (id !== undefined && !added.get(content)?.special) {
      added.set(content, { ...stripping(token), id, content, special: true })
    }
    return id
  }
  const eosId = resolve('eos_token', config['eos_token'], defaults.eos)
  const bosId = resolve('bos_token', config['bos_token'], defaults.bos) ?? eosId
  if (eosId === undefined || bosId === undefined) {
    throw new UserError(
      `${path}: the vocabulary has no ${defaults.eos}, and tokenizer_config.json names no ` +
        `bos_token and eos_token: name them there`,
    )
  }
  for (const role of ['unk_token', 'sep_token', 'cls_token', 'mask_token']) {
    resolve(role, config[role])
  }
  const padId = resolve('pad_token', config['pad_token'], defaults.pad) ?? eosId
  for (const name of ['additional_special_tokens', 'extra_special_tokens']) {
    const further = config[name]
    const tokens = isObject(further) ? Object.values(further) : further
    for (const token of Array.isArray(tokens) ? tokens : []) resolve('special token', token)
  }
  return { added: [...added.values()], bosId, eosId, padId }
}

/** A special token stands as a string or as an object with its content. */
function tokenText(role: string, token: unknown): string | undefined {
  const text = isObject(token) ? token['content'] : (token ?? '')
  if (typeof text === 'string') return text === '' ? undefined : text
  throw new UserError(`tokenizer_config.json: the ${role} must be a text, not ${excerpt(token)}`)
}

async function readJson(path: string): Promise<Json | undefined> {
  const text = await readText(path, MAX_FILE_BYTES)
  if (text === undefined) return undefined
  const value = parseJson(text, path)
  if (isObject(value)) return value
  throw new UserError(`${path} must hold a JSON object, not ${excerpt(value)}`)
}
