// A `tokenizer.json` of Hugging Face `tokenizers`: its parts, checked; its pipeline is one of those that
// tokenizer-pipelines.ts lists, so that no pattern from a file is ever run.

import { UserError } from '../util/errors.ts'
import { excerpt, isObject, type Json } from '../util/untrusted.ts'
import { checkAdded, checkMerges, checkVocab, type Frame, type Parts } from './tokenizer-parts.ts'
import { pipelineOf } from './tokenizer-pipelines.ts'

/** @throws UserError naming the first thing that another kind of tokenizer has */
export function fromTokenizerJson(path: string, whole: Json): Parts {
  const model = isObject(whole['model']) ? whole['model'] : {}
  const pipeline = pipelineOf(path, whole, model)
  const listed = whole['added_tokens'] ?? []
  if (!Array.isArray(listed)) throw new UserError(`${path}: added_tokens must be an array`)
  return {
    vocab: checkVocab(path, model['vocab']),
    merges: checkMerges(path, model['merges']),
    added: listed.map((token) => checkAdded(path, token)),
    frame: templateFrame(path, whole['post_processor']),
    pipeline,
  }
}

/** What a post-processor puts around a text: at most one special token on either side. */
function templateFrame(path: string, processor: unknown): Frame {
  const none = { prefix: [], suffix: [] }
  if (!isObject(processor) || processor['type'] === 'ByteLevel') return none
  if (processor['type'] === 'Sequence' && Array.isArray(processor['processors'])) {
    const frames = processor['processors'].map((part) => templateFrame(path, part))
    return {
      prefix: frames.flatMap(({ prefix }) => prefix),
      suffix: frames.flatMap(({ suffix }) => suffix),
    }
  }
  const single = processor['type'] === 'TemplateProcessing' ? processor['single'] : undefined
  const pieces = Array.isArray(single) ? single.map((part) => (isObject(part) ? part : {})) : []
  const shape = pieces.map((piece) => Object.keys(piece)[0]).join(' ')
  if (/^(SpecialToken )?Sequence( SpecialToken)?$/.test(shape)) {
    const at = pieces.findIndex((piece) => Object.hasOwn(piece, 'Sequence'))
    const [prefix, suffix] = [pieces.slice(0, at), pieces.slice(at + 1)].map((side) =>
      side.map((piece) => idOf(processor, piece)),
    )
    const isKnown = (id: number | undefined): id is number => id !== undefined
    if (prefix!.every(isKnown) && suffix!.every(isKnown))
      return { prefix: prefix!, suffix: suffix! }
  }
  throw new UserError(
    `${path}: the post_processor ${excerpt(processor)} is not supported: ` +
      `expected one that adds nothing or a single token before or after the text`,
  )
}

/** The id of a template's special token, as the template itself lists it. */
function idOf(processor: Json, piece: Json): number | undefined {
  const token = isObject(piece['SpecialToken']) ? piece['SpecialToken']['id'] : undefined
  const tokens = processor['special_tokens']
  const isListed = isObject(tokens) && typeof token === 'string' && Object.hasOwn(tokens, token)
  const entry = isListed ? tokens[token] : undefined
  const ids: unknown = isObject(entry) ? entry['ids'] : undefined
  const isOne = Array.isArray(ids) && ids.length === 1 && Number.isInteger(ids[0])
  return isOne ? (ids[0] as number) : undefined
}
