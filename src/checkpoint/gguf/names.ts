// Architectures of GGUF files by llama.cpp's names: which model_type each is, what its tensors are called on either
// side, and what the converter does to their numbers. Read here in both directions: open.ts and write.ts.
// Source: llama.cpp's conversion scripts and the `gguf` package's tensor_mapping.py.

/** An architecture. */
export interface Family {
  /** general.architecture. */
  readonly architecture: string
  readonly modelType: string
  /** Of `transformers`. */
  readonly className: string
  /** Stems by their Hugging Face names: before and behind the blocks, and of one block. */
  readonly outer: Readonly<Record<string, string>>
  readonly inner: Readonly<Record<string, string>>
  /** Rows of q and k lie in another order within each head. */
  readonly permuted?: true
  /** Norms of the file have 1 added. */
  readonly shiftedNorms?: true
  /** Matrices of the blocks are the transpose of Hugging Face's. */
  readonly transposed?: true
}

const OUTER = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
}

const ATTENTION = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  attn_output: 'self_attn.o_proj',
}

const FEED_FORWARD = { ffn_gate: 'mlp.gate_proj', ffn_up: 'mlp.up_proj', ffn_down: 'mlp.down_proj' }

const DECODER = { ...ATTENTION, ...FEED_FORWARD, ffn_norm: 'post_attention_layernorm' }

const BRANCHED = {
  ...ATTENTION,
  ...FEED_FORWARD,
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
}

const PHI3 = {
  attn_norm: 'input_layernorm',
  attn_qkv: 'self_attn.qkv_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_up: 'mlp.gate_up_proj',
  ffn_down: 'mlp.down_proj',
}

const GPT2_OUTER = {
  token_embd: 'transformer.wte',
  position_embd: 'transformer.wpe',
  output_norm: 'transformer.ln_f',
  output: 'lm_head',
}

const GPT2 = {
  attn_norm: 'ln_1',
  attn_qkv: 'attn.c_attn',
  attn_output: 'attn.c_proj',
  ffn_norm: 'ln_2',
  ffn_up: 'mlp.c_fc',
  ffn_down: 'mlp.c_proj',
}

const family = (
  architecture: string,
  className: string,
  inner: Family['inner'],
  more: Partial<Family> = {},
): Family => ({ architecture, modelType: architecture, className, outer: OUTER, inner, ...more })

/** Every architecture that is read. */
export const FAMILIES: readonly Family[] = [
  family('llama', 'LlamaForCausalLM', DECODER, { permuted: true }),
  family('qwen2', 'Qwen2ForCausalLM', DECODER),
  family('qwen3', 'Qwen3ForCausalLM', DECODER),
  family('gemma', 'GemmaForCausalLM', DECODER, { shiftedNorms: true }),
  family('gemma2', 'Gemma2ForCausalLM', BRANCHED, { shiftedNorms: true }),
  family('gemma3', 'Gemma3ForCausalLM', BRANCHED, {
    modelType: 'gemma3_text',
    shiftedNorms: true,
  }),
  family('phi3', 'Phi3ForCausalLM', PHI3),
  family('gpt2', 'GPT2LMHeadModel', GPT2, { outer: GPT2_OUTER, transposed: true }),
]

/** Names of blocks in the two worlds: blk.3.attn_q and model.layers.3.self_attn.q_proj. */
const blocksOf = ({ modelType }: Family) =>
  modelType === 'gpt2' ? 'transformer.h' : 'model.layers'

/** The Hugging Face name of a file's tensor; undefined for one that has none. */
export function huggingFaceName(family: Family, name: string): string | undefined {
  const [, block, stem = '', kind] = /^(?:blk\.(\d{1,5})\.)?(\w+)\.(weight|bias)$/.exec(name) ?? []
  const stems = block === undefined ? family.outer : family.inner
  if (!Object.hasOwn(stems, stem)) return undefined
  const prefix = block === undefined ? '' : `${blocksOf(family)}.${Number(block)}.`
  return `${prefix}${stems[stem]}.${kind}`
}

/** The file's name of a Hugging Face tensor; undefined for one that has none. */
export function ggufName(family: Family, name: string): string | undefined {
  const kind = name.slice(name.lastIndexOf('.') + 1)
  const stem = name.slice(0, -kind.length - 1)
  const outer = Object.entries(family.outer).find(([, own]) => own === stem)
  if (outer) return `${outer[0]}.${kind}`
  const blocks = `${blocksOf(family)}.`
  if (!stem.startsWith(blocks)) return undefined
  const [, block, rest] = /^(\d+)\.(.+)$/.exec(stem.slice(blocks.length)) ?? []
  const inner = Object.entries(family.inner).find(([, own]) => own === rest)
  return inner && `blk.${block}.${inner[0]}.${kind}`
}

/** What is done to a tensor between the two, by its Hugging Face name. */
export function treatmentOf(family: Family, name: string) {
  return {
    permuted: family.permuted === true && /\.[qk]_proj\.(weight|bias)$/.test(name),
    shifted: family.shiftedNorms === true && name.endsWith('norm.weight'),
    transposed: family.transposed === true && /\.c_(attn|proj|fc)\.weight$/.test(name),
  }
}
