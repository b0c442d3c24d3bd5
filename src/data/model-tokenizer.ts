// The tokenizer in a model's folder, checked against the model: an id beyond the embedding's rows
// must be one sentence before the first step, not a failed read in the middle of it. Also what ends a
// generated text by the folder's own word, and the one change that MeZO's code makes.

import { join } from 'node:path'
import { loadGgufTokenizer } from './gguf-tokenizer.ts'
import { loadGpt2Tokenizer } from './gpt-tokenizers.ts'
import { modelMeta, preparedTokenizer, type TokenizerUse } from './prepared.ts'
import { loadTokenizer } from './tokenizer.ts'
import type { Tokenizer } from './types.ts'
import { readText } from './whole-file.ts'
import { UserError } from '../util/errors.ts'
import { excerpt, isObject, parseJson, quote } from '../util/untrusted.ts'

const MAX_CONFIG_BYTES = 2 ** 24

/** @throws UserError for a missing or damaged tokenizer, or one that knows more tokens than the model */
export async function tokenizerOf(loaded: TokenizerUse): Promise<Tokenizer> {
  const { dir, model } = loaded
  const tokenizer = await tokenizerIn(loaded)
  const { vocabSize, textSize = vocabSize } = tokenizer
  if (textSize > model.vocabSize) {
    throw new UserError(
      `${dir}: the tokenizer has ${vocabSize} tokens, config.json means a vocab_size of ${model.vocabSize}; take tokenizer and weights of the same model`,
    )
  }
  const isMade = loaded.checkpoint?.gguf !== undefined
  const eosIds = (isMade ? undefined : await generationEnds(dir)) ?? tokenizer.eosIds
  if (vocabSize <= model.vocabSize) return { ...tokenizer, eosIds }
  return { ...tokenizer, eosIds, encode: within(tokenizer, model.vocabSize) }
}

/** Gemma 3's tokenizer has a token for images beyond the rows of its text models. */
function within(tokenizer: Tokenizer, rows: number): Tokenizer['encode'] {
  return (text, options) => {
    const ids = tokenizer.encode(text, options)
    const beyond = ids.find((id) => id >= rows)
    if (beyond === undefined) return ids
    throw new UserError(
      `the text has the token ${quote(tokenizer.tokenOf(beyond) ?? '')} (id ${beyond}), but the model has ` +
        `${rows} tokens: leave it out`,
    )
  }
}

/** The ids that `transformers` ends a text by: those of generation_config.json, else of config.json. */
async function generationEnds(dir: string): Promise<readonly number[] | undefined> {
  for (const name of ['generation_config.json', 'config.json']) {
    const path = join(dir, name)
    const text = await readText(path, MAX_CONFIG_BYTES)
    const config = text === undefined ? {} : parseJson(text, path)
    const ends = isObject(config) ? (config['eos_token_id'] ?? undefined) : undefined
    if (ends === undefined) continue
    const ids: unknown[] = Array.isArray(ends) ? ends : [ends]
    if (ids.every((id): id is number => Number.isInteger(id))) return ids
    throw new UserError(
      `${path}: eos_token_id must be a token id or a list of them, but it is ${excerpt(ends)}`,
    )
  }
  return undefined
}

/** A model of zo2 pretrain has its data's meta.json; a nanoGPT without one speaks GPT-2's BPE. */
async function tokenizerIn(loaded: TokenizerUse): Promise<Tokenizer> {
  if (loaded.checkpoint?.gguf) return loadGgufTokenizer(loaded.checkpoint)
  if (loaded.model.modelType !== 'nanogpt') return loadTokenizer(loaded.dir)
  const meta = await modelMeta(loaded)
  return meta ? preparedTokenizer(meta) : loadGpt2Tokenizer()
}

/** What MeZO's code sets as OPT's BOS: the id of `<s>`, which OPT was not trained with. */
const MEZO_BOS = 0

/** The tokenizer that data is encoded with: MeZO's BOS for OPT under --mezo-compat. */
export async function dataTokenizer(
  loaded: TokenizerUse,
  { mezoCompat }: { mezoCompat: boolean },
): Promise<Tokenizer> {
  const tokenizer = await tokenizerOf(loaded)
  if (!mezoCompat || loaded.model.modelType !== 'opt') return tokenizer
  const prefix = tokenizer.encode('').map(() => MEZO_BOS)
  return {
    ...tokenizer,
    bosId: MEZO_BOS,
    encode: (text, { bos = true } = {}) => [
      ...(bos ? prefix : []),
      ...tokenizer.encode(text, { bos: false }),
    ],
  }
}
