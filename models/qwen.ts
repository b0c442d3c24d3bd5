// Qwen 2, 2.5 and 3 (HF model_types "qwen2", "qwen3"): Llama with biases of q, k and v, or with norms of their
// heads; a window from layer max_window_layers on, if use_sliding_window. Defaults of Qwen2Config and
// Qwen3Config. The network is decoder.ts.

import { readCount, readFlag, type Config } from './config.ts'
import { decoder, readDecoder, readWindow, slidingLayers, type Layer } from './decoder.ts'
import type { Model } from './model.ts'

const DEFAULTS = {
  vocab_size: 151936,
  hidden_size: 4096,
  intermediate_size: 22016,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
  max_window_layers: 28,
}

/** The model of a config.json. Throws UserError for values that no Qwen2 has. */
export function qwen2(given: Config): Model {
  const { common, ...read } = readDecoder(given, DEFAULTS)
  const bias = { qkv: true, output: false, mlp: false }
  return decoder({ ...common, bias, ropes: [read.rope()], layers: layersOf(read) })
}

/** The model of a config.json. Throws UserError for values that no Qwen3 has. */
export function qwen3(given: Config): Model {
  const { common, ...read } = readDecoder(given, { ...DEFAULTS, head_dim: 128 })
  const bias = { ...common.bias, mlp: false }
  return decoder({ ...common, bias, qkNorm: true, ropes: [read.rope()], layers: layersOf(read) })
}

function layersOf({ config, layerCount }: { config: Config; layerCount: number }): Layer[] {
  const window = readFlag(config, 'use_sliding_window', false) ? readWindow(config) : undefined
  const full: Layer = { rope: 0 }
  if (window === undefined) return slidingLayers(config, layerCount, () => false).map(() => full)
  const first = readCount(config, 'max_window_layers')
  const sliding = slidingLayers(config, layerCount, (i) => i >= first)
  return sliding.map((is) => (is ? { ...full, window } : full))
}
