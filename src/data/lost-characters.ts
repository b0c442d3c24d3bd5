// Texts that a vocabulary has no tokens for. A tokenizer that left such characters out would train on,
// or go on from, another text than the one it was given; so they are refused by name.

import { UserError } from '../util/errors.ts'
import { quote } from '../util/untrusted.ts'
import { byteCharacters } from './decode-tokens.ts'

/** The distinct characters of a text that a tokenizer has no token for. */
type Lost = (text: string) => ReadonlySet<string>

interface Vocabulary {
  readonly vocab: ReadonlyMap<string, number>
  readonly added: readonly { readonly content: string }[]
}

const NONE: ReadonlySet<string> = new Set()

/**
 * Byte-level BPE leaves a byte out that its vocabulary lacks, and so would change the text. Most
 * vocabularies have all 256.
 */
export function lostCharacters({ vocab, added }: Vocabulary): Lost {
  const isMissing = byteCharacters().map((character) => !vocab.has(character))
  if (!isMissing.includes(true)) return () => NONE
  const contents = added.map(({ content }) => content).sort((a, b) => b.length - a.length)
  return (text) => {
    const rest = contents.reduce((left, content) => left.replaceAll(content, ''), text)
    const bytesOf = (character: string) => new TextEncoder().encode(character)
    return new Set([...new Set(rest)].filter((c) => bytesOf(c).some((byte) => isMissing[byte])))
  }
}

const SHOWN_CHARACTERS = 8

/** A text has characters that the model's vocabulary lacks. */
class LostCharactersError extends UserError {}

/** @throws LostCharactersError naming characters that a text would lose */
export function refuseLost(lost: ReadonlySet<string>): void {
  if (lost.size === 0) return
  const shown = [...lost].slice(0, SHOWN_CHARACTERS).map(quote).join(', ')
  const more = lost.size > SHOWN_CHARACTERS ? ` and ${lost.size - SHOWN_CHARACTERS} more` : ''
  throw new LostCharactersError(
    `the model has no token for ${shown}${more}: leave such characters out of the text`,
  )
}

/** Runs `work` on a record; a lost character is reported with the record's place. */
export function atPlace<T>(place: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof LostCharactersError)) throw error
    throw new LostCharactersError(`${place}: ${error.message}`, { cause: error })
  }
}
