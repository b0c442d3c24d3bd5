// From tokens to text, as the decoders of Hugging Face `tokenizers` do it: bytes as GPT-2's characters,
// or ▁ for spaces with tokens that stand for one byte.

import type { Pipeline } from './tokenizer-pipelines.ts'
import { SPACE } from './tokenizer-pipelines.ts'

/** Joins the tokens of a text, or of what continues one. */
export type DecodeTokens = (tokens: readonly string[], continues: boolean) => string

export function tokenDecoder(pipeline: Pipeline): DecodeTokens {
  if (pipeline.kind === 'bytes') return fromByteCharacters
  return (tokens, continues) => fromSpaces(tokens, pipeline.strips && !continues)
}

/** The character that stands for each byte in a vocabulary, as GPT-2's `bytes_to_unicode` has it. */
export function byteCharacters(): string[] {
  const isVisible = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  let hidden = 0
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(isVisible(byte) ? byte : 256 + hidden++),
  )
}

/** The byte of each of these characters, by its UTF-16 unit. */
const BYTES: (number | undefined)[] = []
for (const [byte, character] of byteCharacters().entries()) BYTES[character.charCodeAt(0)] = byte

/** A token with a character that stands for no byte, as added tokens may have it, is its own text. */
function fromByteCharacters(tokens: readonly string[]): string {
  // A unit of UTF-16 is three bytes of UTF-8 at most.
  const bytes = new Uint8Array(3 * tokens.reduce((units, token) => units + token.length, 0))
  let end = 0
  for (const token of tokens) {
    const start = end
    for (let i = 0; i < token.length; i++) {
      const byte = BYTES[token.charCodeAt(i)]
      if (byte === undefined) {
        end = start + new TextEncoder().encodeInto(token, bytes.subarray(start)).written
        break
      }
      bytes[end++] = byte
    }
  }
  return asText(bytes.subarray(0, end))
}

const asText = (bytes: Uint8Array) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)

/** A token that stands for one byte. */
export const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/

function fromSpaces(tokens: readonly string[], strips: boolean): string {
  const parts: string[] = []
  let bytes: number[] = []
  const flush = () => {
    if (bytes.length > 0) parts.push(fromBytes(bytes))
    bytes = []
  }
  for (const token of tokens) {
    const byte = BYTE_TOKEN.exec(token)?.[1]
    if (byte !== undefined) {
      bytes.push(Number.parseInt(byte, 16))
      continue
    }
    flush()
    parts.push(token.replaceAll(SPACE, ' '))
  }
  flush()
  const text = parts.join('')
  return strips && text.startsWith(' ') ? text.slice(1) : text
}

/** A run of bytes that is no UTF-8 becomes a replacement character for each of them. */
function fromBytes(bytes: readonly number[]): string {
  try {
    return new TextDecoder('utf-8', { ignoreBOM: true, fatal: true }).decode(Uint8Array.from(bytes))
  } catch {
    return '\ufffd'.repeat(bytes.length)
  }
}
