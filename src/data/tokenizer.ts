// A model folder's tokenizer: text to ids (encode-text.ts) and back (decode-tokens.ts), equal to Hugging
// Face `tokenizers` for the same files. Padding and truncation are batches.ts's and examples.ts's matter.

import { UserError } from '../util/errors.ts'
import { maxOf } from '../util/extremes.ts'
import { describe } from '../util/untrusted.ts'
import { loadChatTemplate } from './chat-template.ts'
import { tokenDecoder } from './decode-tokens.ts'
import { normalizer, textEncoder } from './encode-text.ts'
import { lostCharacters, refuseLost } from './lost-characters.ts'
import { readTokenizerFiles, type TokenizerFiles } from './tokenizer-files.ts'
import type { Tokenizer } from './types.ts'

/**
 * Loads the tokenizer of a model folder from tokenizer.json, or from GPT-2's vocab.json + merges.txt,
 * with the settings beside them (tokenizer-files.ts).
 * @throws UserError where files are missing, damaged, inconsistent or of another kind
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const files = await readTokenizerFiles(dir)
  return tokenizerOfFiles(files, () => loadChatTemplate(dir, files.roles, addedIn(files)))
}

/** The texts of a tokenizer's added tokens. */
export const addedIn = ({ added }: TokenizerFiles) => added.map(({ content }) => content)

/** The tokenizer of checked files. */
export function tokenizerOfFiles(
  files: TokenizerFiles,
  chatTemplate: NonNullable<Tokenizer['chatTemplate']>,
): Tokenizer {
  const { bosId, eosId, padId, prefix, suffix, tokens, cleansUp } = files
  const encode = textEncoder(files)
  const decode = tokenDecoder(files.pipeline)
  const spelled = spellings(files)
  const special = new Set(files.added.filter((token) => token.special).map(({ id }) => id))
  // A byte's token stands for it; byte-level vocabularies may lack some.
  const lost = files.pipeline.kind === 'bytes' ? lostCharacters(files) : () => new Set<string>()

  return {
    encode(text, { bos = true } = {}) {
      checkText(text)
      refuseLost(lost(text))
      const ids = bos ? [...prefix] : []
      encode(text, ids)
      return ids
    },
    locate(text, places) {
      checkText(text)
      refuseLost(lost(text))
      const ids: number[] = []
      const parts = encode(text, ids)
      const holding = (place: number) =>
        parts.find(({ start, end }) => place >= start && place < end)
      return { ids, at: places.map((place) => holding(place)?.tokenAt(place) ?? ids.length - 1) }
    },
    decode(ids, { skipSpecial = false, continues = false } = {}) {
      if (!Array.isArray(ids)) {
        throw new UserError(`decode: expected a list of token ids, found ${describe(ids)}`)
      }
      const shown = skipSpecial ? ids.filter((id) => !special.has(id)) : ids
      const known = shown.map((id) => spelled[id]).filter((token) => token !== undefined)
      const text = decode(known, continues)
      return cleansUp ? cleanedUp(text) : text
    },
    tokenOf: (id) => tokens[id],
    bosId,
    eosId,
    eosIds: [eosId],
    padId,
    suffix,
    chatTemplate,
    vocabSize: tokens.length,
    textSize: maxOf([...files.vocab.values()]) + 1,
  }
}

/** @throws UserError for what is no text, and for half a surrogate pair, which would become another character */
function checkText(text: unknown): void {
  if (typeof text !== 'string') {
    throw new UserError(`encode: expected a text, found ${describe(text)}`)
  }
  if (!/\p{Surrogate}/u.test(text)) return
  throw new UserError(
    'the text has half a surrogate pair (as \\ud800), which is no character: correct or remove it',
  )
}

/** The tokens as they are decoded: an added token that is normalized is what it has become. */
function spellings({ tokens, added, pipeline }: TokenizerFiles): readonly (string | undefined)[] {
  const spelled = [...tokens]
  const normalize = normalizer(pipeline)
  for (const { id, content, normalized } of added) {
    if (normalized) spelled[id] = normalize(content)
  }
  return spelled
}

/** Old configurations ask for spaces before punctuation to be removed. */
const cleanedUp = (text: string) =>
  text
    .replace(/ ([.?!,])/g, '$1')
    .replaceAll(" ' ", "'")
    .replace(/ (n't|'m|'s|'ve|'re)/g, '$1')
