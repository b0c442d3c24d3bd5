// Phi-3, 3.5 mini, 4 and 4 mini (HF model_type "phi3"): Llama with q, k and v in one matrix and gate and up in
// another, longrope, and a window on every layer where sliding_window is set. Defaults of Phi3Config. The
// network is decoder.ts.

import type { Config } from './config.ts'
import { alike, decoder, readDecoder, readWindow, type Layer } from './decoder.ts'
import type { Model } from './model.ts'

const DEFAULTS = {
  vocab_size: 32064,
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  max_position_embeddings: 4096,
  original_max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
}

/** The model of a config.json. Throws UserError for values that no Phi-3 has. */
export function phi3(given: Config): Model {
  const { common, config, layerCount, rope } = readDecoder(given, DEFAULTS)
  const window = readWindow(config)
  const layer: Layer = { rope: 0, ...(window !== undefined && { window }) }
  const bias = { qkv: false, output: false, mlp: false }
  const layers = alike(layerCount, layer)
  return decoder({ ...common, bias, fused: true, ropes: [rope()], layers })
}
