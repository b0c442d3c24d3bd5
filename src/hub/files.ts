// Which files of a Hugging Face repository or folder a run needs, from their names alone: configuration,
// tokenizer and exactly one set of weights. A repository often holds the same weights three times
// over (PyTorch, TensorFlow, Flax); everything not named here is left where it is. No I/O.
// Order and names as in transformers' `modeling_utils.py`.
import { SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE } from '@huggingface/hub'
import { UserError } from '../util/errors.ts'
import { excerpt, isObject, parseJson } from '../util/untrusted.ts'

export const CONFIG_FILE = 'config.json'
/** Of a folder that holds what PEFT trained, beside a model or alone. */
export const ADAPTER_FILE = 'adapter_config.json'

/**
 * The small files beside the weights: downloaded and copied together. meta.json is nanoGPT's
 * characters, the others are those that transformers reads.
 */
export const SMALL_FILES: readonly string[] = [
  CONFIG_FILE,
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'merges.txt',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'chat_template.jinja',
  'meta.json',
]

/** One way a repository may hold its weights: in `file` itself, or in the shards it lists. */
export interface WeightsLayout {
  readonly file: string
  readonly isIndex: boolean
}

/** Every layout that can be read, best first. */
export const WEIGHTS_LAYOUTS: readonly WeightsLayout[] = [
  { file: SAFETENSORS_FILE, isIndex: false },
  { file: SAFETENSORS_INDEX_FILE, isIndex: true },
  { file: 'pytorch_model.bin', isIndex: false },
  { file: 'pytorch_model.bin.index.json', isIndex: true },
]

// Far above any real index (OPT-66B: 1 MB, 14 shards); a hostile one is refused, not parsed.
export const INDEX_MAX_BYTES = 64 * 2 ** 20
const MAX_SHARDS = 10_000

/** Configuration and tokenizer files among `names`, in a fixed order. */
export function smallFiles(names: ReadonlySet<string>): string[] {
  return SMALL_FILES.filter((name) => names.has(name))
}

/** The best layout whose `file` is among `names`, or null. */
export function chooseWeights(names: ReadonlySet<string>): WeightsLayout | null {
  return WEIGHTS_LAYOUTS.find((layout) => names.has(layout.file)) ?? null
}

/**
 * The distinct shard names in the text of an index file (name or path), sorted.
 * @throws UserError when the text is not an index or a shard is not a plain file name of its kind.
 */
export function shardNames(indexFile: string, text: string): string[] {
  const advice = 'delete it and download the model again'
  const index = parseJson(text, indexFile, advice)
  const map = isObject(index) ? index['weight_map'] : undefined
  if (!isObject(map)) {
    throw new UserError(
      `${indexFile} should be JSON with an object "weight_map" and is not: ${advice}`,
    )
  }
  // The names become paths and URLs, so only plain ones pass.
  const extension = indexFile.endsWith(SAFETENSORS_INDEX_FILE) ? 'safetensors' : 'bin'
  const plain = new RegExp(`^\\w[\\w.-]{0,200}\\.${extension}$`)
  const names = [...new Set(Object.values(map))]
  for (const name of names) {
    if (typeof name === 'string' && plain.test(name)) continue
    throw new UserError(
      `${indexFile} names the shard ${excerpt(name)} where a plain ` +
        `.${extension} file name was expected: choose another revision of the model`,
    )
  }
  if (names.length === 0 || names.length > MAX_SHARDS) {
    throw new UserError(
      `${indexFile} names ${names.length} shards where 1 to ${MAX_SHARDS} were expected: ` +
        `choose another revision of the model`,
    )
  }
  return (names as string[]).sort()
}
