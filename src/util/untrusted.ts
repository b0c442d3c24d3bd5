// Values and texts that came from outside: how they are parsed, and how they are shown in a sentence.
// A sentence is one line whatever a file holds: control characters are escaped, texts and lists are
// cut, and nothing is walked further than it is shown.

import { UserError } from './errors.ts'
import { printable } from './printable.ts'

/** A JSON object, its values unchecked. */
export type Json = Readonly<Record<string, unknown>>

/** Whether a parsed value is an object proper: no array, not null. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Configurations nest five deep, data some more; whatever walks a value may call itself so often. */
const MAX_DEPTH = 100

/**
 * Parses JSON from outside.
 * @param place where the text stands; the line is added where the text has several
 * @param advice what to do about a text that is no JSON, to follow the complaint
 * @throws UserError with the parser's complaint, or for nesting beyond any use
 */
export function parseJson(text: string, place: string, advice = ''): unknown {
  const end = advice && `; ${advice}`
  if (isDeeperThan(MAX_DEPTH, text)) {
    throw new UserError(`${place}: not usable as JSON: nested more than ${MAX_DEPTH} deep${end}`)
  }
  try {
    return JSON.parse(text)
  } catch (cause) {
    const { message } = cause as Error
    const offset = /position (\d+)/.exec(message)?.[1]
    const line = text.slice(0, Number(offset ?? 0)).split('\n').length
    const where = offset && text.includes('\n') ? `${place}:${line}` : place
    throw new UserError(`${where}: not valid JSON: ${complaint(message)}${end}`, { cause })
  }
}

/** Brackets outside of strings, counted before anything is built of them. */
function isDeeperThan(most: number, text: string): boolean {
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    const character = text[i]
    if (character === '"') {
      i = endOfString(text, i)
    } else if (character === '{' || character === '[') {
      if (++depth > most) return true
    } else if (character === '}' || character === ']') depth--
  }
  return false
}

/** Index of the quote that ends the string which begins at `start`, or the text's length. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0
    while (text[end - 1 - backslashes] === '\\') backslashes++
    if (backslashes % 2 === 0) return end
  }
  return text.length
}

/** The parser's words without the piece of the text that it quotes. */
const complaint = (message: string) =>
  printable(message.replace(/,? (?:\.\.\.)?"[^]*" is not valid JSON$/, ''))

const NAME_CHARACTERS = 80

/** An untrusted name in quotes: control characters escaped, at most 80 characters of it. */
export function quote(name: string): string {
  const shown = name.length > NAME_CHARACTERS ? `${name.slice(0, NAME_CHARACTERS - 3)}...` : name
  return printable(JSON.stringify(shown))
}

/** Short, printable words for an untrusted value; never walks into it. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return quote(value)
  if (value === null || typeof value !== 'object') return String(value)
  if (Array.isArray(value)) return `a list of ${value.length}`
  return 'an object'
}

const EXCERPT_CHARACTERS = 60

/** The beginning of a value as JSON, as much of it as fits into a sentence. */
export function excerpt(value: unknown): string {
  const text = beginning(value, EXCERPT_CHARACTERS)
  const isWhole = text.length <= EXCERPT_CHARACTERS
  return isWhole ? text : `${text.slice(0, EXCERPT_CHARACTERS - 3)}...`
}

/** A value as JSON; past `room` characters nothing more is looked at. */
function beginning(value: unknown, room: number): string {
  if (typeof value === 'string') return printable(JSON.stringify(value.slice(0, room + 1)))
  if (value === null || typeof value !== 'object') return String(value)
  const isList = Array.isArray(value)
  let text = isList ? '[' : '{'
  for (const key in value) {
    if (text.length > room) return text
    if (text.length > 1) text += ','
    if (!isList) text += `${beginning(key, room)}:`
    text += beginning((value as Record<string, unknown>)[key], room - text.length)
  }
  return text + (isList ? ']' : '}')
}

const LISTED_NAMES = 8

/** Untrusted names for a sentence: the first eight, and how many more there are. */
export function listing(names: readonly string[]): string {
  const shown = names.slice(0, LISTED_NAMES).map(plainOrQuoted).join(', ')
  const more = names.length - LISTED_NAMES
  return more > 0 ? `${shown} and ${more} more` : shown || '(none)'
}

/** Names that could be code stand as they are. */
const plainOrQuoted = (name: string) =>
  /^[\p{L}\p{N}_.:-]{1,80}$/u.test(name) ? name : quote(name)
