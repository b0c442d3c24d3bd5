// Shapes of published models by name, as their config.json has them: for plans and for synthetic checkpoints
// (synthetic.ts). Sources: the configurations of facebook/opt-*, meta-llama, Qwen, HuggingFaceTB, google, mistralai.

type Config = Readonly<Record<string, unknown>>

/** Hidden size, layers, heads, feed-forward size, size of the embeddings. */
type OptSize = readonly [number, number, number, number, number]

const opt = ([hidden, layers, heads, ffn, embed]: OptSize): Config => ({
  model_type: 'opt',
  architectures: ['OPTForCausalLM'],
  hidden_size: hidden,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  ffn_dim: ffn,
  word_embed_proj_dim: embed,
  vocab_size: 50272,
  max_position_embeddings: 2048,
  activation_function: 'relu',
  do_layer_norm_before: hidden === embed,
  bos_token_id: 2,
  eos_token_id: 2,
  pad_token_id: 1,
})

/** Hidden and feed-forward size, layers, heads, heads of keys, columns of a head. */
type DecoderSize = readonly [number, number, number, number, number, number]

const decoder =
  (shared: Config) =>
  ([hidden, ffn, layers, heads, kvHeads, headSize]: DecoderSize, own: Config = {}): Config => ({
    hidden_size: hidden,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headSize,
    ...shared,
    ...own,
  })

const llama3 = decoder({
  model_type: 'llama',
  architectures: ['LlamaForCausalLM'],
  vocab_size: 128256,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500_000,
  rope_scaling: {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
})

const smollm2 = decoder({
  model_type: 'llama',
  architectures: ['LlamaForCausalLM'],
  vocab_size: 49152,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 100_000,
  tie_word_embeddings: true,
})

const qwen3 = decoder({
  model_type: 'qwen3',
  architectures: ['Qwen3ForCausalLM'],
  vocab_size: 151936,
  max_position_embeddings: 40960,
  rms_norm_eps: 1e-6,
  rope_theta: 1_000_000,
})
const TIED = { tie_word_embeddings: true }

const mistral = decoder({
  model_type: 'mistral',
  architectures: ['MistralForCausalLM'],
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-5,
  sliding_window: null,
})

const gemma3 = decoder({
  model_type: 'gemma3_text',
  architectures: ['Gemma3ForCausalLM'],
  vocab_size: 262208,
  query_pre_attn_scalar: 256,
  sliding_window: 1024,
  rope_scaling: { rope_type: 'linear', factor: 8 },
})

/** config.json by name. */
const SIZES: Readonly<Record<string, Config>> = {
  'opt-125m': opt([768, 12, 12, 3072, 768]),
  'opt-350m': opt([1024, 24, 16, 4096, 512]),
  'opt-1.3b': opt([2048, 24, 32, 8192, 2048]),
  'opt-2.7b': opt([2560, 32, 32, 10240, 2560]),
  'opt-6.7b': opt([4096, 32, 32, 16384, 4096]),
  'opt-13b': opt([5120, 40, 40, 20480, 5120]),
  'opt-30b': opt([7168, 48, 56, 28672, 7168]),
  'opt-66b': opt([9216, 64, 72, 36864, 9216]),
  'opt-175b': opt([12288, 96, 96, 49152, 12288]),
  'smollm2-135m': smollm2([576, 1536, 30, 9, 3, 64]),
  'smollm2-360m': smollm2([960, 2560, 32, 15, 5, 64]),
  'smollm2-1.7b': smollm2([2048, 8192, 24, 32, 32, 64], { rope_theta: 130_000 }),
  'llama-3.1-8b': llama3([4096, 14336, 32, 32, 8, 128]),
  'llama-3.1-70b': llama3([8192, 28672, 80, 64, 8, 128]),
  'llama-3.1-405b': llama3([16384, 53248, 126, 128, 8, 128]),
  'qwen3-0.6b': qwen3([1024, 3072, 28, 16, 8, 128], TIED),
  'qwen3-1.7b': qwen3([2048, 6144, 28, 16, 8, 128], TIED),
  'qwen3-4b': qwen3([2560, 9728, 36, 32, 8, 128], TIED),
  'qwen3-8b': qwen3([4096, 12288, 36, 32, 8, 128]),
  'qwen3-14b': qwen3([5120, 17408, 40, 40, 8, 128]),
  'qwen3-32b': qwen3([5120, 25600, 64, 64, 8, 128]),
  'mistral-7b': mistral([4096, 14336, 32, 32, 8, 128], { vocab_size: 32768, rope_theta: 1e6 }),
  'mistral-24b': mistral([5120, 32768, 40, 32, 8, 128], { vocab_size: 131072, rope_theta: 1e8 }),
  'gemma-3-1b': gemma3([1152, 6912, 26, 4, 1, 256], {
    vocab_size: 262144,
    max_position_embeddings: 32768,
    sliding_window: 512,
    rope_scaling: null,
  }),
  'gemma-3-4b': gemma3([2560, 10240, 34, 8, 4, 256]),
  'gemma-3-12b': gemma3([3840, 15360, 48, 16, 8, 256]),
  'gemma-3-27b': gemma3([5376, 21504, 62, 32, 16, 128], { query_pre_attn_scalar: 168 }),
}

export const SYNTHETIC_SIZES = Object.keys(SIZES)

/** config.json of a size, in f16; undefined for a name that is none. */
export const configOfSize = (size: string): Config | undefined =>
  Object.hasOwn(SIZES, size) ? { ...SIZES[size], torch_dtype: 'float16' } : undefined
