// The parts of a BPE tokenizer, each checked where it comes from: vocabulary, merges, added
// tokens. Which files they are read from is tokenizer-files.ts's matter.

import { UserError } from '../util/errors.ts'
import { excerpt, isObject, quote, type Json } from '../util/untrusted.ts'
import type { Pipeline } from './tokenizer-pipelines.ts'

/** A token that is found in a text before anything else is. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Whether it is looked for in normalized text, as it is spelled there. */
  readonly normalized: boolean
}

/** What a file says of a tokenizer, before special tokens have their roles. */
export interface Parts {
  readonly vocab: Map<string, number>
  readonly merges: [string, string][]
  readonly added: AddedToken[]
  /** Ids around every text; undefined: BOS where the settings ask for it. */
  readonly frame?: Frame
  readonly pipeline: Pipeline
}

/** Ids that a rule puts before and after a text. */
export interface Frame {
  readonly prefix: readonly number[]
  readonly suffix: readonly number[]
}

/** @throws UserError for what is no object of tokens, or an empty one */
export function checkVocab(path: string, vocab: unknown): Map<string, number> {
  if (!isObject(vocab) || Object.keys(vocab).length === 0) {
    throw new UserError(`${path}: the vocabulary must be an object from tokens to ids`)
  }
  return new Map(Object.entries(vocab) as [string, number][])
}

/**
 * Ids must be 0 .. n-1, each once: they index the rows of an embedding.
 * @param room how many ids may be left out, as some families do between the vocabulary and added tokens
 * @returns the tokens by their ids
 * @throws UserError naming the first token whose id is none of these
 */
export function checkIds(
  path: string,
  vocab: ReadonlyMap<string, number>,
  room = 0,
): (string | undefined)[] {
  const owners = new Array<string | undefined>(vocab.size)
  const end = vocab.size + room
  for (const [token, id] of vocab) {
    if (!Number.isInteger(id) || id < 0 || id >= end) {
      throw new UserError(
        `${path}: the id of token ${quote(token)} must be an integer from 0 to ` +
          `${end - 1} (there are ${vocab.size} tokens), but it is ${excerpt(id)}`,
      )
    }
    if (owners[id] !== undefined) {
      const both = `${quote(owners[id])} and ${quote(token)}`
      throw new UserError(`${path}: the tokens ${both} both have id ${id}, but ids must be unique`)
    }
    owners[id] = token
  }
  return owners
}

/**
 * Hugging Face gives an added token the id that its text has in the vocabulary, else the next one,
 * whatever a file says.
 * @throws UserError for a token whose id is another
 */
export function checkAddedIds(
  path: string,
  vocab: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
): void {
  let next = vocab.size
  for (const { id, content } of [...added].sort((a, b) => a.id - b.id)) {
    const expected = vocab.get(content) ?? next++
    if (id !== expected) {
      throw new UserError(
        `${path}: the added token ${quote(content)} has id ${id}, but Hugging Face reads it as ` +
          `${expected}: expected the id of its text in the vocabulary, else the next free one`,
      )
    }
  }
}

/** merges.txt: a `#version` line, then two tokens a line, in order of rank; blank lines say nothing. */
export function parseMerges(path: string, text: string): [string, string][] {
  const lines = text
    .split('\n')
    .map((line, i) => ({ line: line.trim(), place: `${path}:${i + 1}` }))
  const first = lines[0]!.line.startsWith('#version') ? 1 : 0
  return lines
    .slice(first)
    .filter(({ line }) => line !== '')
    .map(({ line, place }) => checkPair(place, line))
}

/** @throws UserError for what is no array of pairs */
export function checkMerges(path: string, merges: unknown): [string, string][] {
  if (!Array.isArray(merges)) throw new UserError(`${path}: model.merges must be an array`)
  return merges.map((merge, i) => checkPair(`${path}: merge ${i + 1}`, merge))
}

function checkPair(where: string, merge: unknown): [string, string] {
  const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge
  const ok = Array.isArray(pair) && pair.length === 2 && pair.every((t) => typeof t === 'string')
  if (ok && pair[0] && pair[1]) return pair as [string, string]
  throw new UserError(
    `${where}: expected two tokens with one space between them, found ${excerpt(merge)}`,
  )
}

/** @throws UserError for a token without id or content, or with rules that are not read here */
export function checkAdded(path: string, token: unknown): AddedToken {
  const { id, content, special, single_word: isWord } = isObject(token) ? token : {}
  if (typeof id !== 'number' || typeof content !== 'string' || content === '') {
    throw new UserError(
      `${path}: an added token must have an id and a content, found ${excerpt(token)}`,
    )
  }
  if (isWord === true) {
    throw new UserError(
      `${path}: the added token ${quote(content)} is to be found as a whole word only ` +
        `(single_word), which is not supported: expected one that is found everywhere`,
    )
  }
  const { normalized = !special } = token as Json
  return {
    ...stripping(token),
    id,
    content,
    special: special === true,
    normalized: normalized === true,
  }
}

/** Whether the spaces around a token belong to it; a special token is found in the text as it is. */
export function stripping(token: unknown): Pick<AddedToken, 'lstrip' | 'rstrip' | 'normalized'> {
  const { lstrip, rstrip } = isObject(token) ? token : {}
  return { lstrip: lstrip === true, rstrip: rstrip === true, normalized: false }
}

/** The token of a byte where byte fallback spells a character. */
export const byteToken = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`

/** @throws UserError where a byte has no token, so that a character could be lost */
export function checkByteTokens(path: string, vocab: ReadonlyMap<string, number>): void {
  for (let byte = 0; byte < 256; byte++) {
    if (vocab.has(byteToken(byte))) continue
    throw new UserError(
      `${path}: model.byte_fallback is true, but the vocabulary has no token ${byteToken(byte)}: ` +
        `expected one for each byte`,
    )
  }
}
