// SmolLM3 (HF model_type "smollm3"): Llama whose every fourth layer has no rotary positions (no_rope_layers, 0 where
// there are none), and a window there if use_sliding_window. Defaults of SmolLM3Config. The network is decoder.ts.

import { UserError } from '../src/util/errors.ts'
import { excerpt } from '../src/util/untrusted.ts'
import { readCount, readFlag, type Config } from './config.ts'
import { decoder, readDecoder, readWindow, slidingLayers } from './decoder.ts'
import type { Model } from './model.ts'

const DEFAULTS = {
  vocab_size: 128256,
  hidden_size: 2048,
  intermediate_size: 11008,
  num_hidden_layers: 36,
  num_attention_heads: 16,
  num_key_value_heads: 4,
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-6,
  no_rope_layer_interval: 4,
  tie_word_embeddings: true,
}

const THETA = 2_000_000

/** The model of a config.json. Throws UserError for values that no SmolLM3 has. */
export function smollm3(given: Config): Model {
  const { common, config, layerCount, rope } = readDecoder(given, DEFAULTS, { theta: THETA })
  const rotates = rotatedLayers(config, layerCount)
  const window = readFlag(config, 'use_sliding_window', false) ? readWindow(config) : undefined
  const sliding = slidingLayers(config, layerCount, (i) => window !== undefined && !rotates[i]!)
  const layers = rotates.map((has, i) => ({
    rope: has ? 0 : null,
    ...(window !== undefined && sliding[i] && { window }),
  }))
  return decoder({ ...common, ropes: [rope()], layers })
}

function rotatedLayers(config: Config, count: number): boolean[] {
  const given = config['no_rope_layers']
  if (given === undefined || given === null) {
    const interval = readCount(config, 'no_rope_layer_interval')
    return Array.from({ length: count }, (_, i) => (i + 1) % interval !== 0)
  }
  if (Array.isArray(given) && given.length >= count && given.every((v) => v === 0 || v === 1)) {
    return given.slice(0, count).map((value) => value === 1)
  }
  throw new UserError(
    `config.json: no_rope_layers must be 0 or 1 for each of ${count} layers, found ${excerpt(given)}`,
  )
}
