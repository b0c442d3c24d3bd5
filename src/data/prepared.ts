// What `zo2 prepare` leaves and training reads: train.bin and val.bin (token ids as uint16,
// little-endian, nothing else) and meta.json. Also which windows of them make up a batch.

import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { noiseKey, threefry2x32, uniform53 } from '../noise/threefry.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import { readText } from './whole-file.ts'
import { isObject, parseJson, quote, type Json } from '../util/untrusted.ts'
import { characterTokenizer, loadGpt2Tokenizer } from './gpt-tokenizers.ts'
import { IGNORED, type Sequence, type Tokenizer } from './types.ts'

export const META_FILE = 'meta.json'
const MAX_META_BYTES = 64 * 2 ** 20

/** meta.json. */
export interface Meta {
  readonly dataset: string
  readonly tokenizer: 'gpt2' | 'char'
  /** Ids are below this; a model's vocabulary may be padded beyond it. */
  readonly vocab_size: number
  readonly train_tokens: number
  readonly val_tokens: number
  /** char: the character of each id. */
  readonly itos?: readonly string[]
}

/**
 * The meta.json of a folder, or undefined where there is none.
 * @throws UserError if it is damaged
 */
export async function readMeta(dir: string): Promise<Meta | undefined> {
  const path = join(dir, META_FILE)
  const text = await readText(path, MAX_META_BYTES)
  if (text === undefined) return undefined
  const meta = parseJson(text, path)
  if (isObject(meta) && isMeta(meta)) return meta
  throw new UserError(
    `${path}: expected dataset, vocab_size and tokenizer "gpt2", or "char" and itos with each character once; prepare the data again with zo2 prepare`,
  )
}

function isMeta(value: Json): value is Json & Meta {
  const { dataset, tokenizer, vocab_size: size, itos } = value
  if (typeof dataset !== 'string' || !Number.isSafeInteger(size)) return false
  if (tokenizer !== 'char') return tokenizer === 'gpt2'
  const isCharacter = (name: unknown) => typeof name === 'string' && [...name].length === 1
  return (
    Array.isArray(itos) &&
    itos.length === size &&
    itos.every(isCharacter) &&
    new Set(itos).size === size
  )
}

/** What a tokenizer has to fit: a model's folder, its model_type and rows of its embedding. */
export interface TokenizerUse {
  readonly dir: string
  readonly checkpoint?: Pick<Checkpoint, 'files' | 'gguf'>
  readonly model: { readonly modelType: string; readonly vocabSize: number }
}

/** The meta.json of a model of zo2 pretrain; in a folder of another kind it would be somebody else's. */
export const modelMeta = async ({ dir, model }: TokenizerUse): Promise<Meta | undefined> =>
  model.modelType === 'nanogpt' ? readMeta(dir) : undefined

/** Ids of GPT-2's BPE, which a model without a meta.json knows if it has so many. */
const GPT2_TOKENS = 50257

/**
 * @throws UserError where the data's ids mean other characters or words than a model's do: two
 *   alphabets may well have the same size
 */
export async function checkSameTokens({ dir, model }: TokenizerUse, data: Meta): Promise<void> {
  const own = await modelMeta({ dir, model })
  const kind = own?.tokenizer ?? (model.vocabSize >= GPT2_TOKENS ? 'gpt2' : data.tokenizer)
  if (kind !== data.tokenizer) {
    const words = { gpt2: "GPT-2's BPE", char: 'characters' }
    throw new UserError(
      `${data.dataset} is made of ${words[data.tokenizer]}, ${dir} of ${words[kind]}: take data of ` +
        `the model's tokenizer`,
    )
  }
  const [known = [], given = []] = [own?.itos, data.itos]
  const other = own ? given.findIndex((character, id) => character !== known[id]) : -1
  if (other < 0) return
  throw new UserError(
    `${data.dataset} has another alphabet than ${dir}: id ${other} is ${quote(given[other]!)} there ` +
      `and ${quote(known[other] ?? '')} here; take data of the model's characters, or start from scratch`,
  )
}

/** The tokenizer that a folder's tokens were made with. */
export async function preparedTokenizer(meta: Meta): Promise<Tokenizer> {
  return meta.tokenizer === 'char' ? characterTokenizer(meta.itos!) : loadGpt2Tokenizer()
}

/** A .bin file, read where it is needed. */
export interface TokenFile {
  readonly tokens: number
  /** Ids of [first, first + count). */
  read(first: number, count: number): Promise<Uint16Array>
  close(): Promise<void>
}

/** @throws UserError if the file is missing or no list of uint16 */
export async function openTokenFile(path: string): Promise<TokenFile> {
  const handle = await open(path).catch((cause: Error) => {
    throw new UserError(`cannot read ${path}: ${cause.message}; make it with zo2 prepare`, {
      cause,
    })
  })
  try {
    const stats = await handle.stat()
    if (!stats.isFile() || stats.size === 0 || stats.size % 2 !== 0) {
      throw new UserError(
        `${path} must hold token ids of two bytes each, but it has ${stats.size} bytes; make it again with zo2 prepare`,
      )
    }
    return {
      tokens: stats.size / 2,
      read: (first, count) => readIds(handle, path, first, count),
      close: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

async function readIds(handle: FileHandle, path: string, first: number, count: number) {
  const ids = new Uint16Array(count)
  const { bytesRead } = await handle.read(new Uint8Array(ids.buffer), 0, count * 2, first * 2)
  if (bytesRead !== count * 2) {
    throw new UserError(`${path} ended early: it was changed while in use; make it again`)
  }
  return ids
}

/** Which windows a batch takes: a pure function of these, nothing to save for a resume. */
export interface Draw {
  readonly seed: number
  /** What the batch is for, as 'train' or 'eval val'. */
  readonly purpose: string
  /** 0-based iteration, a u32. */
  readonly step: number
  /** Of all micro-batches of the iteration, the first row's number. */
  readonly firstRow: number
}

/**
 * B windows of T tokens at random places, each token labelled with the one after it, as nanoGPT's
 * get_batch: labels has a column more than inputIds.
 * @throws UserError if the file has no T + 1 tokens, or an id that the model lacks
 */
export async function drawTexts(
  file: TokenFile,
  path: string,
  shape: { readonly batch: number; readonly tokens: number; readonly vocabSize: number },
  { seed, purpose, step, firstRow }: Draw,
): Promise<Sequence[]> {
  const { batch, tokens, vocabSize } = shape
  const places = file.tokens - tokens
  if (places < 1) {
    throw new UserError(
      `${path} has ${file.tokens} tokens, too few for a block size of ${tokens}: use more text or a smaller block`,
    )
  }
  const key = noiseKey(seed, step, purpose, 'order')
  const rows = await Promise.all(
    Array.from({ length: batch }, async (_, b) => {
      const unit = uniform53(threefry2x32(key.k0, key.k1, firstRow + b, 0))
      return [...(await file.read(Math.floor(unit * places), tokens + 1))]
    }),
  )
  const beyond = rows.flat().find((id) => id >= vocabSize)
  if (beyond !== undefined) {
    throw new UserError(
      `${path} holds the token ${beyond}, but the model's vocabulary has ${vocabSize}: train on the data that it was made for`,
    )
  }
  return rows.map((row) => ({ inputIds: row, labels: [IGNORED, ...row.slice(1)] }))
}

/** A bare name is a folder in data/, as nanoGPT has it. */
export function datasetDir(dataset: string): string {
  return /[\\/]/.test(dataset) ? dataset : join('data', dataset)
}
