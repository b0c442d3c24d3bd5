// The network that most decoders of today share: RMS norms, rotary positions, grouped heads, a gated feed-forward.
// What the families differ in is data (`Decoder`), read from config.json by each family's own file. Source:
// transformers, modeling_llama.py, and the files that repeat it (mistral, qwen2, qwen3, smollm3, phi3, gemma*).

import type { Activation } from '../src/device/device.ts'
import type { AttentionDims } from '../src/device/packed.ts'
import { programOf, type Build } from './build.ts'
import {
  readActivation,
  readCount,
  readFlag,
  readLayers,
  readPositive,
  type Config,
} from './config.ts'
import type { Model, Rows } from './model.ts'
import { readRope, type Rope } from './rope.ts'
import { UserError } from '../src/util/errors.ts'
import { excerpt } from '../src/util/untrusted.ts'

const EMBED_TOKENS = 'model.embed_tokens.weight'
const LM_HEAD = 'lm_head.weight'

/** What a layer differs in from others. */
export interface Layer {
  /** Which of the ropes; null: none. */
  readonly rope: number | null
  /** Keys that a query sees; absent: all before it. */
  readonly window?: number
}

/** A decoder as its config.json describes it. */
export interface Decoder {
  readonly modelType: string
  readonly C: number
  readonly F: number
  readonly V: number
  readonly attention: AttentionDims
  readonly positions: number
  readonly eps: number
  readonly activation: Activation
  readonly tied: boolean
  readonly ropes: readonly Rope[]
  readonly layers: readonly Layer[]
  /** Biases of q, k and v, of the output projection, of the feed-forward. */
  readonly bias: { readonly qkv: boolean; readonly output: boolean; readonly mlp: boolean }
  /** Norms of each head of q and k. */
  readonly qkNorm?: boolean
  /** q, k and v in one matrix, gate and up in another (phi3). */
  readonly fused?: boolean
  /** Gemma: norms by 1 + weight. */
  readonly normOffset?: number
  /** Gemma 2 and 3: norms behind both branches as well. */
  readonly branchNorms?: boolean
  /** Gemma: rows of the embedding are multiplied with it. */
  readonly embeddingScale?: number
  /** Gemma 2: logits are capped. */
  readonly logitCap?: number
  readonly needsF32?: boolean
}

/** The model of a decoder. */
export function decoder(c: Decoder): Model {
  return {
    modelType: c.modelType,
    hidden: c.C,
    layers: c.layers.length,
    attention: c.attention,
    vocabSize: c.V,
    maxPositions: c.positions,
    ropes: c.ropes,
    ...(c.needsF32 && { needsF32: true }),
    ...programOf({
      layers: c.layers.length,
      embed: (b) => b.gather(EMBED_TOKENS, c.V, c.C, 'ids', { scale: c.embeddingScale ?? 1 }),
      block: (b, h, i) => block(c, b, h, i),
      head: (b, h) =>
        b.head(norm(c, b, h, 'model.norm'), c.tied ? EMBED_TOKENS : LM_HEAD, c.V, c.logitCap),
    }),
    aliases: (name) => aliases(c, name),
  }
}

function block(c: Decoder, b: Build, h: Rows, i: number): Rows {
  const layer = `model.layers.${i}`
  const x = attention(c, b, norm(c, b, h, `${layer}.input_layernorm`), i)
  h = b.wanted(h)
  if (!c.branchNorms) {
    b.add(x, h)
    b.add(feedForward(c, b, norm(c, b, h, `${layer}.post_attention_layernorm`), layer), h)
    return h
  }
  b.add(norm(c, b, x, `${layer}.post_attention_layernorm`), h)
  const f = feedForward(c, b, norm(c, b, h, `${layer}.pre_feedforward_layernorm`), layer)
  b.add(norm(c, b, f, `${layer}.post_feedforward_layernorm`), h)
  return h
}

function attention(c: Decoder, b: Build, x: Rows, i: number): Rows {
  const { heads, kvHeads, headSize } = c.attention
  const { rope, window } = c.layers[i]!
  const name = `model.layers.${i}.self_attn`
  const [Q, K] = [heads * headSize, kvHeads * headSize]
  const project = (part: string, cols: number) =>
    b.linear(x, `${name}.${part}_proj`, cols, { bias: c.bias.qkv })
  const [q0, k0, v] = (
    c.fused
      ? columnsOf(b, project('qkv', Q + 2 * K), [Q, K, K])
      : [project('q', Q), project('k', K), project('v', K)]
  ) as [Rows, Rows, Rows]
  const headNorm = (rows: Rows, part: string) =>
    c.qkNorm ? norm(c, b, rows, `${name}.${part}_norm`, headSize) : rows
  const [q, k] = [headNorm(q0, 'q'), headNorm(k0, 'k')]
  if (rope !== null) for (const rows of [q, k]) b.rope(rows, rope)
  const y = b.attend(q, k, v, window)
  return b.linear(y, `${name}.o_proj`, c.C, { bias: c.bias.output })
}

function feedForward(c: Decoder, b: Build, x: Rows, layer: string): Rows {
  const name = `${layer}.mlp`
  const bias = { bias: c.bias.mlp }
  const [gate, up] = (
    c.fused
      ? columnsOf(b, b.linear(x, `${name}.gate_up_proj`, 2 * c.F, bias), [c.F, c.F])
      : ['gate', 'up'].map((part) => b.linear(x, `${name}.${part}_proj`, c.F, bias))
  ) as [Rows, Rows]
  b.gate(c.activation, up, gate)
  return b.linear(gate, `${name}.down_proj`, c.C, bias)
}

/** The parts of a fused product. */
function columnsOf(b: Build, x: Rows, sizes: readonly number[]): Rows[] {
  let first = 0
  return sizes.map((cols) => {
    first += cols
    return b.columns(x, first - cols, cols)
  })
}

const norm = ({ eps, normOffset = 0 }: Decoder, b: Build, x: Rows, name: string, size = x.cols) =>
  b.rmsNorm(x, name, { eps, offset: normOffset, size })

/** Files of the bare model lack the leading "model."; a tied table may bear the head's name only. */
function aliases(c: Decoder, name: string): string[] {
  const names = [name]
  if (name.startsWith('model.')) names.push(name.slice('model.'.length))
  if (name === EMBED_TOKENS && c.tied) names.push(LM_HEAD)
  return names
}

/** What every family reads the same way, `defaults` being what its configuration class has for absent keys. */
export function readDecoder(
  given: Config,
  defaults: Config,
  options: { readonly activationKey?: string; readonly theta?: number } = {},
) {
  const { activationKey = 'hidden_act', theta = 10_000 } = options
  const config: Config = { ...defaults, ...given }
  const C = readCount(config, 'hidden_size')
  const heads = readCount(config, 'num_attention_heads')
  const kvHeads = readCount(config, 'num_key_value_heads', heads)
  if (heads % kvHeads !== 0) {
    throw new UserError(
      `config.json: num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`,
    )
  }
  const headSize = readHeadSize(config, C, heads)
  const bias = readFlag(config, 'attention_bias', false)
  return {
    config,
    layerCount: readLayers(config, 'num_hidden_layers'),
    common: {
      modelType: String(config['model_type']),
      C,
      F: readCount(config, 'intermediate_size'),
      V: readCount(config, 'vocab_size'),
      attention: { heads, kvHeads, headSize, scale: headSize ** -0.5 },
      positions: readCount(config, 'max_position_embeddings'),
      eps: readPositive(config, 'rms_norm_eps'),
      activation: readActivation(config, 'silu', activationKey),
      tied: readFlag(config, 'tie_word_embeddings', false),
      bias: { qkv: bias, output: bias, mlp: readFlag(config, 'mlp_bias', false) },
    },
    /** Of a part of rope_parameters, if they are nested. */
    rope: (part?: string) => readRope(config, { headSize, theta }, part),
  }
}

function readHeadSize(config: Config, C: number, heads: number): number {
  if (config['head_dim'] === undefined || config['head_dim'] === null) {
    if (C % heads === 0) return C / heads
    throw new UserError(
      `config.json: hidden_size ${C} is not a multiple of num_attention_heads ${heads}, and there is no head_dim`,
    )
  }
  return readCount(config, 'head_dim')
}

/** The window of a config.json; undefined where it is null or absent. */
export const readWindow = (config: Config): number | undefined =>
  config['sliding_window'] === null || config['sliding_window'] === undefined
    ? undefined
    : readCount(config, 'sliding_window')

/** All layers alike. */
export const alike = (count: number, layer: Layer): Layer[] =>
  Array.from({ length: count }, () => layer)

/**
 * Which layers see a window only: by `layer_types` if config.json has it, else by the family's own rule.
 * @throws UserError for another number of layers, or types that are not known
 */
export function slidingLayers(config: Config, count: number, rule: (i: number) => boolean) {
  const types = config['layer_types']
  if (types === undefined || types === null) return Array.from({ length: count }, (_, i) => rule(i))
  const known = ['full_attention', 'sliding_attention']
  if (Array.isArray(types) && types.length === count && types.every((t) => known.includes(t))) {
    return types.map((type) => type === 'sliding_attention')
  }
  throw new UserError(
    `config.json: layer_types must be ${count} times ${known.join(' or ')}, found ${excerpt(types)}`,
  )
}
