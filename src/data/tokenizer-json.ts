// A `tokenizer.json` of Hugging Face `tokenizers`: byte-level BPE with GPT-2's pre-tokenizer and
// nothing configurable, so that no pattern from a file is ever run. Everything else is refused by name.

import { UserError } from '../util/errors.ts'
import { excerpt, isObject, type Json } from '../util/untrusted.ts'
import { checkAdded, checkMerges, checkVocab, type Parts } from './tokenizer-parts.ts'

/** @throws UserError naming the first thing that another kind of tokenizer has */
export function fromTokenizerJson(path: string, whole: Json): Parts {
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
  const plain = pre['type'] === 'ByteLevel' && pre['use_regex'] !== false
  require('pre_tokenizer', plain, whole['pre_tokenizer'])
  const decoder = isObject(whole['decoder']) ? whole['decoder'] : {}
  require('decoder', decoder['type'] === 'ByteLevel', whole['decoder'])

  const listed = whole['added_tokens'] ?? []
  if (!Array.isArray(listed)) throw new UserError(`${path}: added_tokens must be an array`)
  return {
    vocab: checkVocab(path, model['vocab']),
    merges: checkMerges(path, model['merges']),
    added: listed.map((token) => checkAdded(path, token)),
    prefix: templatePrefix(path, whole['post_processor']),
    addPrefixSpace: pre['add_prefix_space'] === true,
  }
}

/** The ids that a post-processor puts before a text: none or one special token; more is refused. */
function templatePrefix(path: string, processor: unknown): number[] {
  if (!isObject(processor) || processor['type'] === 'ByteLevel') return []
  if (processor['type'] === 'Sequence' && Array.isArray(processor['processors'])) {
    return processor['processors'].flatMap((part) => templatePrefix(path, part))
  }
  const single = processor['type'] === 'TemplateProcessing' ? processor['single'] : undefined
  const pieces = Array.isArray(single) ? single.map((part) => (isObject(part) ? part : {})) : []
  const shape = pieces.map((piece) => Object.keys(piece)[0]).join(' ')
  if (shape === 'Sequence') return []
  const ids = shape === 'SpecialToken Sequence' ? idsOf(processor, pieces[0]!) : undefined
  if (ids) return ids
  throw new UserError(
    `${path}: the post_processor ${excerpt(processor)} is not supported: ` +
      `expected one that adds nothing or a single token before the text`,
  )
}

/** The ids of a template's special token, as the template itself lists them. */
function idsOf(processor: Json, piece: Json): number[] | undefined {
  const token = isObject(piece['SpecialToken']) ? piece['SpecialToken']['id'] : undefined
  const tokens = processor['special_tokens']
  const isListed = isObject(tokens) && typeof token === 'string' && Object.hasOwn(tokens, token)
  const entry = isListed ? tokens[token] : undefined
  const ids = isObject(entry) ? entry['ids'] : undefined
  const isOne = Array.isArray(ids) && ids.length === 1 && Number.isInteger(ids[0])
  return isOne ? (ids as number[]) : undefined
}
