// Mistral (HF model_type "mistral"): Llama without biases, with a window on every layer where sliding_window is not
// null; absent, it is 4096. Defaults of MistralConfig. The network is decoder.ts.

import type { Config } from './config.ts'
import { alike, decoder, readDecoder, readWindow, type Layer } from './decoder.ts'
import type { Model } from './model.ts'

const DEFAULTS = {
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
}

/** The model of a config.json. Throws UserError for values that no Mistral has. */
export function mistral(given: Config): Model {
  const { common, config, layerCount, rope } = readDecoder(given, DEFAULTS)
  const window = readWindow(config)
  const layer: Layer = { rope: 0, ...(window !== undefined && { window }) }
  const bias = { qkv: false, output: false, mlp: false }
  return decoder({ ...common, bias, ropes: [rope()], layers: alike(layerCount, layer) })
}
