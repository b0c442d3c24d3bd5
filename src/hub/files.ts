// Which files of a Hugging Face repository a run needs, from their names alone: configuration,
// tokenizer and exactly one set of weights. A repository often holds the same weights three times
// over (PyTorch, TensorFlow, Flax); everything not named here is left where it is. No I/O.
// Order and names as in transformers' `modeling_utils.py`.
import { SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE } from '@huggingface/hub'
import { UserError } from '../util/errors.ts'

export const CONFIG_FILE = 'config.json'

const SMALL_FILES = [
  CONFIG_FILE,
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'merges.txt',
  'special_tokens_map.json',
  'added_tokens.json',
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
  const map = weightMap(text)
  if (map === null) {
    throw new UserError(
      `${indexFile} should be JSON with an object "weight_map" and is not: ` +
        `delete it and download the model again`,
    )
  }
  // The names become paths and URLs, so only plain ones pass.
  const extension = indexFile.endsWith(SAFETENSORS_INDEX_FILE) ? 'safetensors' : 'bin'
  const plain = new RegExp(`^\\w[\\w.-]{0,200}\\.${extension}$`)
  const names = [...new Set(Object.values(map))]
  for (const name of names) {
    if (typeof name === 'string' && plain.test(name)) continue
    throw new UserError(
      `${indexFile} names the shard ${JSON.stringify(name).slice(0, 80)} where a plain ` +
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

function weightMap(text: string): Record<string, unknown> | null {
  try {
    const index: unknown = JSON.parse(text)
    if (typeof index !== 'object' || index === null || !('weight_map' in index)) return null
    const map = index.weight_map
    return typeof map === 'object' && map !== null ? (map as Record<string, unknown>) : null
  } catch {
    return null
  }
}
