// Llama (HF model_type "llama"): Llama 1 to 3.3, TinyLlama, SmolLM and SmolLM2, Yi. Config keys and tensor names
// verbatim; defaults of LlamaConfig. The network is decoder.ts.

import type { Config } from './config.ts'
import { alike, decoder, readDecoder } from './decoder.ts'
import type { Model } from './model.ts'

const DEFAULTS = {
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-6,
}

/** The model of a config.json. Throws UserError for values that no Llama has. */
export function llama(given: Config): Model {
  const { common, layerCount, rope } = readDecoder(given, DEFAULTS)
  return decoder({ ...common, ropes: [rope()], layers: alike(layerCount, { rope: 0 }) })
}
