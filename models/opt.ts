// OPT (HF model_type "opt", modeling_opt.py): config keys and tensor names verbatim, every layout:
// pre-norm (125m, 1.3b, ...), post-norm with project_in/out and no final norm (350m), tied and
// untied heads, checkpoints whose names lack the leading "model.".

import type { Activation } from '../src/device/device.ts'
import { programOf, type Build } from './build.ts'
import {
  checkHeads,
  ownHeads,
  readActivation,
  readCount,
  readFlag,
  readLayers,
  type Config,
} from './config.ts'
import type { Model, Rows } from './model.ts'

const EMBED_TOKENS = 'model.decoder.embed_tokens.weight'
const EMBED_POSITIONS = 'model.decoder.embed_positions.weight'
/** Rows of the table of positions before that of a text's first token. */
const OFFSET = 2
const LM_HEAD = 'lm_head.weight'

interface OptConfig {
  readonly C: number
  readonly F: number
  readonly E: number
  readonly V: number
  readonly layers: number
  readonly heads: number
  readonly positions: number
  readonly preNorm: boolean
  readonly bias: boolean
  readonly affine: boolean
  readonly tied: boolean
  readonly finalNorm: boolean
  readonly activation: Activation
}

/** The model of a config.json. Throws UserError for values that no OPT has. */
export function opt(config: Config): Model {
  const c = readConfig(config)
  return {
    modelType: 'opt',
    hidden: c.C,
    layers: c.layers,
    attention: ownHeads(c.C, c.heads),
    vocabSize: c.V,
    maxPositions: c.positions,
    ...programOf({
      layers: c.layers,
      embed: (b) => embed(c, b),
      block: (b, h, layer) => block(c, b, h, layer),
      head: (b, h) => head(c, b, h),
    }),
    aliases: (name) => aliases(c, name),
  }
}

function embed(c: OptConfig, b: Build): Rows {
  let h = b.gather(EMBED_TOKENS, c.V, c.E, 'ids') // (R,E), then (R,C) the residual stream
  if (c.E !== c.C) h = b.linear(h, 'model.decoder.project_in', c.C, { bias: false })
  b.add(b.gather(EMBED_POSITIONS, c.positions + OFFSET, c.C, 'positions', { offset: OFFSET }), h)
  return h
}

function block(c: OptConfig, b: Build, h: Rows, i: number): Rows {
  const layer = `model.decoder.layers.${i}`
  const norm = (x: Rows, name: string) =>
    b.layerNorm(x, `${layer}.${name}`, { weight: c.affine, bias: c.affine })
  const linear = (x: Rows, name: string, cols: number) => b.linear(x, `${layer}.${name}`, cols, c)

  let a = c.preNorm ? norm(h, 'self_attn_layer_norm') : h
  const q = linear(a, 'self_attn.q_proj', c.C)
  const k = linear(a, 'self_attn.k_proj', c.C)
  const v = linear(a, 'self_attn.v_proj', c.C)
  const x = linear(b.attend(q, k, v), 'self_attn.out_proj', c.C)
  h = b.wanted(h)
  b.add(x, h)
  if (!c.preNorm) h = norm(h, 'self_attn_layer_norm')

  a = c.preNorm ? norm(h, 'final_layer_norm') : h
  const f = b.activated(a, `${layer}.fc1`, c.F, c.activation, c)
  b.add(linear(f, 'fc2', c.C), h)
  return c.preNorm ? h : norm(h, 'final_layer_norm')
}

function head(c: OptConfig, b: Build, h: Rows): void {
  const affine = { weight: c.affine, bias: c.affine }
  let x = c.finalNorm ? b.layerNorm(h, 'model.decoder.final_layer_norm', affine) : h
  if (c.E !== c.C) x = b.linear(x, 'model.decoder.project_out', c.E, { bias: false })
  b.head(x, c.tied ? EMBED_TOKENS : LM_HEAD, c.V)
}

/** `decoder.*` for 350m, 6.7b, 13b, 30b; a tied table may be stored under the head's name only. */
function aliases(c: OptConfig, name: string): string[] {
  const names = [name]
  if (name.startsWith('model.')) names.push(name.slice('model.'.length))
  if (name === EMBED_TOKENS && c.tied) names.push(LM_HEAD)
  return names
}

function readConfig(config: Config): OptConfig {
  const C = readCount(config, 'hidden_size')
  const heads = readCount(config, 'num_attention_heads')
  checkHeads('hidden_size', C, 'num_attention_heads', heads)
  const preNorm = readFlag(config, 'do_layer_norm_before', true)
  return {
    C,
    F: readCount(config, 'ffn_dim'),
    E: readCount(config, 'word_embed_proj_dim', C),
    V: readCount(config, 'vocab_size'),
    layers: readLayers(config, 'num_hidden_layers'),
    heads,
    positions: readCount(config, 'max_position_embeddings'),
    preNorm,
    bias: readFlag(config, 'enable_bias', true),
    affine: readFlag(config, 'layer_norm_elementwise_affine', true),
    tied: readFlag(config, 'tie_word_embeddings', true),
    finalNorm: preNorm && !readFlag(config, '_remove_final_layer_norm', false),
    activation: readActivation(config, 'relu'),
  }
}
