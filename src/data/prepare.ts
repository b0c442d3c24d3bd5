// Text to tokens for pre-training: nanoGPT's three data sets, with its splits, as a folder of train.bin,
// val.bin and meta.json (prepared.ts) that appears whole or not at all. Texts are streamed, so that
// they may be far larger than memory.
// Source: karpathy/nanoGPT, data/*/prepare.py.

import { join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { noiseKey, threefry2x32 } from '../noise/threefry.ts'
import { writeAtomically, writeTextAtomically, type Append } from '../io/atomic.ts'
import { buildFolder } from '../checkpoint/convert.ts'
import { characterTokenizer, END_OF_TEXT, loadGpt2Tokenizer } from './gpt-tokenizers.ts'
import { META_FILE, type Meta } from './prepared.ts'
import { readRecords, utf8Chunks } from './readers.ts'
import type { Tokenizer } from './types.ts'
import { withPlainLineEnds } from './whole-file.ts'

export const PREPARED_SETS = ['shakespeare', 'shakespeare_char', 'openwebtext'] as const
export type PreparedSet = (typeof PREPARED_SETS)[number]

interface PrepareOptions {
  /** shakespeare*: text files, taken as one text. openwebtext: data files of records with `text`. */
  readonly inputs: readonly string[]
  /** Absent or empty. */
  readonly outputDir: string
  /** Called now and then with the tokens written. */
  readonly onProgress?: (tokens: number) => void
}

/** Share of a text's characters that is for training. */
const TRAIN_SHARE = 0.9
/** nanoGPT holds out 0.0005 of OpenWebText's documents, drawn with this seed. */
const DOCUMENTS_PER_HELD_OUT = 2000
const DOCUMENT_SEED = 2357
/** Characters that wait for a space to be cut at. */
const MAX_WAITING = 2 ** 26

/**
 * Writes a data set's folder and returns its meta.json.
 *
 * shakespeare and shakespeare_char: the first 90 % of the characters (code points, line ends as \n) are
 * train.bin, bit for bit as nanoGPT's own. openwebtext: each document's tokens and end of text, in the
 * order of the files; of each 2,000 documents one, drawn by a fixed seed, goes to val.bin (the first
 * of all among them): nanoGPT's share, but neither its shuffle nor its choice.
 * @throws UserError for unreadable, empty or too short inputs, and if outputDir holds something
 */
export async function prepare(set: PreparedSet, options: PrepareOptions): Promise<Meta> {
  const { inputs, outputDir, onProgress } = options
  let meta: Meta | undefined
  await buildFolder(outputDir, async (folder) => {
    const write = { train: 0, val: 0 }
    await writeAtomically(join(folder, 'train.bin'), 0, (toTrain) =>
      writeAtomically(join(folder, 'val.bin'), 0, async (toVal) => {
        const outputs: Readonly<Record<Split, Append>> = { train: toTrain, val: toVal }
        const sink: Sink = async (split, ids) => {
          const bytes = new Uint8Array(Uint16Array.from(ids).buffer)
          await outputs[split](bytes)
          onProgress?.(write.train + write.val + ids.length)
          write[split] += ids.length
        }
        meta = await KINDS[set](inputs, sink, write)
      }),
    )
    for (const split of ['train', 'val'] as const) {
      if (write[split] > 0) continue
      throw new UserError(`${inputs.join(', ')}: too little text, ${split}.bin would be empty`)
    }
    await writeTextAtomically(join(folder, META_FILE), `${JSON.stringify(meta, null, 1)}\n`)
  })
  return meta!
}

type Split = 'train' | 'val'
type Sink = (split: Split, ids: readonly number[]) => Promise<void>
type Written = Readonly<Record<Split, number>>
type Kind = (inputs: readonly string[], sink: Sink, written: Written) => Promise<Meta>

const KINDS: Readonly<Record<PreparedSet, Kind>> = {
  async shakespeare(inputs, sink, written) {
    const { characters } = await survey(inputs)
    const tokenizer = await loadGpt2Tokenizer()
    await splitText(inputs, characters, tokenizer, cutAtSpace, sink)
    return metaOf('shakespeare', 'gpt2', tokenizer, written)
  },
  async shakespeare_char(inputs, sink, written) {
    const { characters, alphabet } = await survey(inputs)
    if (alphabet.length > 2 ** 16) {
      throw new UserError(
        `${inputs.join(', ')}: ${alphabet.length} characters are too many for ids`,
      )
    }
    const tokenizer = characterTokenizer(alphabet)
    await splitText(inputs, characters, tokenizer, (text) => text.length, sink)
    return { ...metaOf('shakespeare_char', 'char', tokenizer, written), itos: alphabet }
  },
  async openwebtext(inputs, sink, written) {
    const tokenizer = await loadGpt2Tokenizer()
    let document = 0
    for (const input of inputs) {
      for await (const { values, place } of readRecords(input)) {
        const text = values['text']
        if (typeof text !== 'string') throw new UserError(`${place}: expected a text in "text"`)
        const split = isHeldOut(document++) ? 'val' : 'train'
        await sink(split, [...tokenizer.encode(text), END_OF_TEXT])
      }
    }
    return metaOf('openwebtext', 'gpt2', tokenizer, written)
  },
}

function metaOf(dataset: PreparedSet, kind: Meta['tokenizer'], tokenizer: Tokenizer, n: Written) {
  const counts = { train_tokens: n.train, val_tokens: n.val }
  return { dataset, tokenizer: kind, vocab_size: tokenizer.vocabSize, ...counts }
}

/** One of each run of documents; the very first of the first run, so that val.bin is never empty. */
function isHeldOut(document: number): boolean {
  const run = Math.floor(document / DOCUMENTS_PER_HELD_OUT)
  if (run === 0) return document === 0
  const key = noiseKey(DOCUMENT_SEED, 0, 'held-out documents', 'order')
  const [word] = threefry2x32(key.k0, key.k1, run, 0)
  return document % DOCUMENTS_PER_HELD_OUT === word % DOCUMENTS_PER_HELD_OUT
}

/** The files as one text in chunks that never part a character, with plain line ends. */
async function* textOf(inputs: readonly string[]): AsyncGenerator<string> {
  let held = ''
  for (const input of inputs) {
    for await (const chunk of utf8Chunks(input)) {
      const text = held + chunk
      // A \r at the end may be the first half of a line end.
      held = text.endsWith('\r') ? '\r' : ''
      yield withPlainLineEnds(text.slice(0, text.length - held.length))
    }
  }
  if (held !== '') yield '\n'
}

/** Code points of the whole text, and each of them once, sorted. */
async function survey(inputs: readonly string[]) {
  const seen = new Set<string>()
  let characters = 0
  for await (const chunk of textOf(inputs)) {
    for (const character of chunk) {
      seen.add(character)
      characters++
    }
  }
  const alphabet = [...seen].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!)
  return { characters, alphabet }
}

/** Tokens of both parts of the text; `cut` says how many units of a text can be encoded by themselves. */
async function splitText(
  inputs: readonly string[],
  characters: number,
  tokenizer: Tokenizer,
  cut: (text: string) => number,
  sink: Sink,
): Promise<void> {
  let left = Math.floor(characters * TRAIN_SHARE)
  let split: Split = 'train'
  let waiting = ''
  const encode = async (end: number) => {
    if (end > 0) await sink(split, tokenizer.encode(waiting.slice(0, end)))
    waiting = waiting.slice(end)
  }
  for await (const chunk of textOf(inputs)) {
    let rest = chunk
    if (split === 'train') {
      const head = firstCharacters(rest, left)
      left -= head.characters
      waiting += rest.slice(0, head.units)
      rest = rest.slice(head.units)
      if (left === 0) {
        await encode(waiting.length)
        split = 'val'
      }
    }
    waiting += rest
    await encode(cut(waiting))
    if (waiting.length > MAX_WAITING) {
      throw new UserError(
        `${inputs.join(', ')}: ${MAX_WAITING} characters without a space are no text for BPE`,
      )
    }
  }
  await encode(waiting.length)
}

/** The first `most` code points of a text, or all of them. */
function firstCharacters(text: string, most: number): { characters: number; units: number } {
  let [characters, units] = [0, 0]
  for (const character of text) {
    if (characters === most) break
    characters++
    units += character.length
  }
  return { characters, units }
}

/** Where GPT-2's words allow a cut: before the last space that follows a visible character. */
function cutAtSpace(text: string): number {
  for (let i = text.length - 1; i > 0; i--) {
    if ((text[i] === ' ' || text[i] === '\n') && /[^\s\u0085]/.test(text[i - 1]!)) return i
  }
  return 0
}
