// From the metadata of a GGUF file to the config.json that its model has on the hub. What metadata does not say is in
// the tensors: the vocabulary's size, whether the head is tied, biases, frequency divisors of the rope.
// Source: llama.cpp's conversion scripts, and what llama.cpp itself assumes of each architecture.

import { UserError } from '../../util/errors.ts'
import { describe, excerpt } from '../../util/untrusted.ts'
import type { GgufHeader, GgufTensor, GgufValue, Metadata } from './header.ts'
import { FAMILIES, type Family } from './names.ts'

/** Where a configuration comes from. */
export interface ConfigSource extends Pick<GgufHeader, 'file' | 'metadata'> {
  readonly family: Family
  readonly tensors: ReadonlyMap<string, GgufTensor>
  /** Values of the rope's tensors, by name. */
  readonly factors: ReadonlyMap<string, readonly number[]>
}

/** Tensors of frequency divisors. */
export const ROPE_FACTORS: readonly string[] = [
  'rope_freqs.weight',
  'rope_factors_long.weight',
  'rope_factors_short.weight',
]

/** @throws UserError for an architecture that is not read */
export function familyOf({ file, metadata }: Pick<GgufHeader, 'file' | 'metadata'>): Family {
  const name = metadata.get('general.architecture')
  const found = FAMILIES.find(({ architecture }) => architecture === name)
  if (found) return found
  const known = FAMILIES.map(({ architecture }) => architecture).join(', ')
  throw new UserError(
    `${file}: general.architecture ${describe(name)} is not supported; supported: ${known}`,
  )
}

/** The config.json. Values that no model has are for models/ to refuse. */
export function configOf(source: ConfigSource): Record<string, unknown> {
  const { family, metadata, tensors } = source
  const read = reader(source)
  const embedding = tensors.get('token_embd.weight')
  if (embedding?.shape.length !== 2) {
    throw new UserError(
      `${source.file}: expected a matrix token_embd.weight, found none; is this a language model?`,
    )
  }
  const matrices = [...tensors.values()].filter(({ shape }) => shape.length === 2)
  const isHalf = (type: string) => matrices.every((tensor) => tensor.type === type)
  return {
    architectures: [family.className],
    model_type: family.modelType,
    vocab_size: embedding.shape[0],
    tie_word_embeddings: !tensors.has('output.weight'),
    torch_dtype: isHalf('F16') ? 'float16' : isHalf('BF16') ? 'bfloat16' : 'float32',
    ...tokenIds(metadata),
    ...(family.modelType === 'gpt2' ? gpt2(read) : decoder(source, read)),
  }
}

/** Ids of special tokens, as config.json has them. */
function tokenIds(metadata: Metadata): Record<string, unknown> {
  const id = (name: string) => metadata.get(`tokenizer.ggml.${name}_token_id`)
  const ids = { bos_token_id: id('bos'), eos_token_id: id('eos'), pad_token_id: id('padding') }
  return Object.fromEntries(Object.entries(ids).filter(([, value]) => typeof value === 'number'))
}

type Reader = ReturnType<typeof reader>

/** Numbers by their keys without the architecture. */
function reader({ file, metadata, family }: ConfigSource) {
  const find = (key: string): GgufValue | undefined => metadata.get(`${family.architecture}.${key}`)
  const number = (key: string): number | undefined => {
    const value = find(key)
    if (value === undefined || (typeof value === 'number' && value >= 0 && value < Infinity)) {
      return value
    }
    throw new UserError(
      `${file}: expected ${family.architecture}.${key} to be a number, found ${excerpt(value)}; take another file of the model`,
    )
  }
  const required = (key: string): number => {
    const value = number(key)
    if (value !== undefined) return value
    throw new UserError(
      `${file}: expected ${family.architecture}.${key} in the metadata, found none; the file is damaged, download it again`,
    )
  }
  return { find, number, required }
}

function gpt2({ required }: Reader): Record<string, unknown> {
  return {
    n_embd: required('embedding_length'),
    n_inner: required('feed_forward_length'),
    n_layer: required('block_count'),
    n_head: required('attention.head_count'),
    n_positions: required('context_length'),
    layer_norm_epsilon: required('attention.layer_norm_epsilon'),
    activation_function: 'gelu_new',
  }
}

function decoder(source: ConfigSource, read: Reader): Record<string, unknown> {
  const { family, tensors, file } = source
  const { number, required } = read
  if ((number('expert_count') ?? 0) > 0) {
    throw new UserError(
      `${file}: expected a dense model, found one of ${number('expert_count')} experts; mixtures of experts are not supported`,
    )
  }
  const [hidden, heads] = [required('embedding_length'), required('attention.head_count')]
  const headSize = number('attention.key_length') ?? hidden / heads
  const values = number('attention.value_length') ?? headSize
  if (values !== headSize) {
    throw new UserError(
      `${file}: expected heads of keys and values of one size, found ${headSize} and ${values}; such models are not supported`,
    )
  }
  return {
    hidden_size: hidden,
    intermediate_size: required('feed_forward_length'),
    num_hidden_layers: required('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: number('attention.head_count_kv') ?? heads,
    head_dim: headSize,
    max_position_embeddings: required('context_length'),
    rms_norm_eps: required('attention.layer_norm_rms_epsilon'),
    rope_theta: number('rope.freq_base') ?? 10_000,
    ...ropeScaling(source, read, headSize),
    ...(family.modelType === 'llama' || family.modelType === 'qwen3'
      ? {
          attention_bias: tensors.has('blk.0.attn_q.bias'),
          mlp_bias: tensors.has('blk.0.ffn_up.bias'),
        }
      : {}),
    ...ofFamily(source, read, { hidden, heads, headSize }),
  }
}

/** What only one family has. */
function ofFamily(
  { family: { modelType } }: ConfigSource,
  { number, required, find }: Reader,
  { hidden, heads, headSize }: { hidden: number; heads: number; headSize: number },
): Record<string, unknown> {
  const act = 'gelu_pytorch_tanh'
  switch (modelType) {
    case 'gemma':
      return { hidden_act: act, hidden_activation: act }
    case 'gemma2':
    case 'gemma3_text': {
      // llama.cpp knows the largest models, whose scale is another, by their depth.
      const isLargest = required('block_count') === (modelType === 'gemma2' ? 46 : 62)
      const pattern = find('attention.sliding_window_pattern')
      return {
        hidden_activation: act,
        sliding_window: required('attention.sliding_window'),
        query_pre_attn_scalar: isLargest ? hidden / heads : headSize,
        attn_logit_softcapping: number('attn_logit_softcapping') ?? null,
        final_logit_softcapping: number('final_logit_softcapping') ?? null,
        ...(modelType === 'gemma3_text' && {
          rope_local_base_freq: number('rope.freq_base_swa') ?? 10_000,
          ...slidingPattern(pattern),
        }),
      }
    }
    case 'phi3':
      return {
        hidden_act: 'silu',
        sliding_window: number('attention.sliding_window') || null,
        original_max_position_embeddings:
          number('rope.scaling.original_context_length') ?? required('context_length'),
        partial_rotary_factor: (number('rope.dimension_count') ?? headSize) / headSize,
      }
    default:
      return { hidden_act: 'silu' }
  }
}

/** Every so many-th layer sees all, or a flag for each layer that has a window. */
function slidingPattern(pattern: GgufValue | undefined): Record<string, unknown> {
  if (!Array.isArray(pattern)) return { sliding_window_pattern: pattern ?? 6 }
  const types = pattern.map((is) => (is ? 'sliding_attention' : 'full_attention'))
  return { layer_types: types }
}

/**
 * `rope_scaling`. Divisors that a llama has in a tensor (Llama 3's scaling) are those of a longrope whose two
 * lists are the same and that scales nothing else, which `transformers` knows too.
 */
function ropeScaling(source: ConfigSource, read: Reader, headSize: number) {
  const { family, factors, file } = source
  const { find, number, required } = read
  const scaling = (value: Record<string, unknown>) => ({ rope_scaling: value })
  const rotated = number('rope.dimension_count') ?? headSize
  if (rotated !== headSize && family.modelType !== 'phi3') {
    throw new UserError(
      `${file}: expected all ${headSize} columns of a head to rotate, found ${rotated}; such models of ${family.architecture} are not supported`,
    )
  }
  const divisors = factors.get('rope_freqs.weight')
  if (divisors) {
    const lists = { short_factor: divisors, long_factor: divisors }
    return scaling({ rope_type: 'longrope', factor: 1, attention_factor: 1, ...lists })
  }
  const long = factors.get('rope_factors_long.weight')
  if (long) {
    const short = factors.get('rope_factors_short.weight') ?? long
    const given = number('rope.scaling.attn_factor')
    const original = number('rope.scaling.original_context_length') ?? required('context_length')
    const stretched = required('context_length') / original
    const usual = stretched <= 1 ? 1 : Math.sqrt(1 + Math.log(stretched) / Math.log(original))
    // Rounded to f32 in the file: the model's own formula is more exact.
    const own = given !== undefined && Math.abs(given - usual) > 1e-6 * usual
    return scaling({
      rope_type: 'longrope',
      type: 'longrope',
      short_factor: short,
      long_factor: long,
      ...(own && { attention_factor: given }),
    })
  }
  const type = find('rope.scaling.type') ?? 'none'
  if (type === 'none') return {}
  if (type === 'linear')
    return scaling({ rope_type: 'linear', factor: required('rope.scaling.factor') })
  const attention = number('rope.scaling.attn_factor') ?? number('rope.scaling.yarn_attn_factor')
  if (type === 'yarn' && (attention ?? 1) === 1) {
    const [fast, slow] = ['fast', 'slow'].map((end) => number(`rope.scaling.yarn_beta_${end}`))
    return scaling({
      rope_type: 'yarn',
      factor: required('rope.scaling.factor'),
      original_max_position_embeddings: required('rope.scaling.original_context_length'),
      ...(fast !== undefined && { beta_fast: fast }),
      ...(slow !== undefined && { beta_slow: slow }),
    })
  }
  throw new UserError(
    `${file}: rope.scaling.type ${describe(type)} is not supported as it stands there; supported: none, linear, yarn, and factors in tensors`,
  )
}
