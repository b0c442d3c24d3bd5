// Gemma 1, 2 and 3 (HF model_types "gemma", "gemma2", "gemma3_text"): Llama with norms by 1 + weight, scaled
// embeddings and tied heads; from 2 on norms behind both branches and windows on some layers, in 2 capped scores
// and logits, in 3 norms of heads and two ropes. Defaults of GemmaConfig, Gemma2Config, Gemma3TextConfig. The network
// is decoder.ts.

import { UserError } from '../src/util/errors.ts'
import { readCount, readFlag, readPositive, type Config } from './config.ts'
import { alike, decoder, readDecoder, readWindow, slidingLayers, type Layer } from './decoder.ts'
import type { Model } from './model.ts'
import { readRope } from './rope.ts'

const SHARED = { head_dim: 256, rms_norm_eps: 1e-6, tie_word_embeddings: true }

const GEMMA = {
  ...SHARED,
  vocab_size: 256000,
  hidden_size: 3072,
  intermediate_size: 24576,
  num_hidden_layers: 28,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  hidden_act: 'gelu_pytorch_tanh',
  max_position_embeddings: 8192,
}

const GEMMA2 = {
  ...SHARED,
  vocab_size: 256000,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  hidden_activation: 'gelu_pytorch_tanh',
  max_position_embeddings: 8192,
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
}

const GEMMA3 = {
  ...GEMMA2,
  vocab_size: 262208,
  max_position_embeddings: 131072,
  attn_logit_softcapping: null,
  final_logit_softcapping: null,
  sliding_window_pattern: 6,
  rope_local_base_freq: 10_000,
}

/** The model of a config.json. Throws UserError for values that no Gemma has. */
export function gemma(given: Config): Model {
  // The first files say "gelu", or null, and mean the tanh form.
  const isOld = given['hidden_act'] === 'gelu' || given['hidden_act'] === null
  const config = isOld ? { ...given, hidden_act: GEMMA.hidden_act } : given
  const { common, layerCount, rope } = readDecoder(config, GEMMA)
  checkCausal(config)
  const layers = alike(layerCount, { rope: 0 })
  return decoder({ ...common, ...ofGemma(common.C), ropes: [rope()], layers })
}

/** The model of a config.json. Throws UserError for values that no Gemma 2 has. */
export function gemma2(given: Config): Model {
  const read = readDecoder(given, GEMMA2, { activationKey: 'hidden_activation' })
  const { config, layerCount, rope } = read
  const sliding = slidingLayers(config, layerCount, (i) => (i + 1) % 2 !== 0)
  return decoder({
    ...branched(read),
    ropes: [rope()],
    layers: withWindow(config, sliding, () => 0),
  })
}

/** The model of a config.json. Throws UserError for values that no Gemma 3 text model has. */
export function gemma3Text(given: Config): Model {
  const read = readDecoder(given, GEMMA3, { activationKey: 'hidden_activation', theta: 1_000_000 })
  const { common, config, layerCount, rope } = read
  const pattern = readCount(config, 'sliding_window_pattern')
  const sliding = slidingLayers(config, layerCount, (i) => (i + 1) % pattern !== 0)
  return decoder({
    ...branched(read),
    qkNorm: true,
    ropes: [rope('full_attention'), localRope(config, common.attention.headSize)],
    layers: withWindow(config, sliding, (is) => (is ? 1 : 0)),
  })
}

type Read = ReturnType<typeof readDecoder>

/** What Gemma 2 and 3 share. */
function branched({ common, config }: Read) {
  checkCausal(config)
  const scale = readPositive(config, 'query_pre_attn_scalar') ** -0.5
  const [cap, logitCap] = ['attn_logit_softcapping', 'final_logit_softcapping'].map((key) =>
    config[key] === null ? undefined : readPositive(config, key),
  )
  return {
    ...common,
    ...ofGemma(common.C),
    branchNorms: true,
    attention: { ...common.attention, scale, ...(cap !== undefined && { cap }) },
    ...(logitCap !== undefined && { logitCap }),
  }
}

/** What all have. f16 does not hold their activations, some of which come near 10^6. */
const ofGemma = (C: number) => ({ normOffset: 1, embeddingScale: Math.sqrt(C), needsF32: true })

function withWindow(config: Config, sliding: readonly boolean[], rope: (is: boolean) => number) {
  const window = readWindow(config)
  return sliding.map((is): Layer => {
    return { rope: rope(is), ...(is && window !== undefined && { window }) }
  })
}

/** That of the layers with a window: an entry of its own in rope_parameters, else a base that nothing stretches. */
function localRope(config: Config, headSize: number) {
  const nested = config['rope_parameters']
  if (typeof nested === 'object' && nested !== null && 'sliding_attention' in nested) {
    return readRope(config, { headSize, theta: 10_000 }, 'sliding_attention')
  }
  const theta = readPositive(config, 'rope_local_base_freq')
  return readRope({ rope_theta: theta }, { headSize, theta })
}

function checkCausal(config: Config): void {
  if (!readFlag(config, 'use_bidirectional_attention', false)) return
  throw new UserError(
    'config.json: use_bidirectional_attention true is not supported: a language model sees what is before it',
  )
}
