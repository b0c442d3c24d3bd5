// GPT-2 (HF model_type "gpt2", modeling_gpt2.py): config keys and tensor names verbatim. Linear
// weights lie transposed, [in, out] (Conv1D), q, k and v in one c_attn; the hub's own files lack the
// leading "transformer.". nanogpt.ts is the same network under other keys and runs this code.

import type { Activation } from '../src/device/device.ts'
import { UserError } from '../src/util/errors.ts'
import { programOf, type Build } from './build.ts'
import {
  checkHeads,
  ownHeads,
  readActivation,
  readCount,
  readFlag,
  readLayers,
  readPositive,
  type Config,
} from './config.ts'
import type { Model, Rows } from './model.ts'

const WTE = 'transformer.wte.weight'
const WPE = 'transformer.wpe.weight'
const LM_HEAD = 'lm_head.weight'

/** What the two layouts of the network differ in. */
export interface GptShape {
  readonly modelType: string
  readonly C: number
  readonly F: number
  readonly V: number
  readonly layers: number
  readonly heads: number
  readonly positions: number
  /** eps of every layer norm. */
  readonly eps: number
  readonly activation: Activation
  /** Whether linears and norms have biases. */
  readonly bias: boolean
  readonly tied: boolean
  /** Files hold linear weights as [in, out]. */
  readonly transposed: boolean
}

/** The model of a config.json. Throws UserError for values that no GPT-2 language model has. */
export function gpt2(config: Config): Model {
  const C = readCount(config, 'n_embd')
  const heads = readCount(config, 'n_head')
  checkHeads('n_embd', C, 'n_head', heads)
  const unusual = [
    ['scale_attn_weights', true],
    ['scale_attn_by_inverse_layer_idx', false],
    ['add_cross_attention', false],
  ] as const
  for (const [key, usual] of unusual) {
    if (readFlag(config, key, usual) !== usual) {
      throw new UserError(`config.json: ${key} ${!usual} is not supported; it must be ${usual}`)
    }
  }
  return gpt({
    modelType: 'gpt2',
    C,
    F: readCount(config, 'n_inner', 4 * C),
    V: readCount(config, 'vocab_size'),
    layers: readLayers(config, 'n_layer'),
    heads,
    positions: readCount(config, 'n_positions'),
    eps: readPositive(config, 'layer_norm_epsilon', 1e-5),
    activation: readActivation(config, 'gelu_new'),
    bias: true,
    tied: readFlag(config, 'tie_word_embeddings', true),
    transposed: true,
  })
}

/** The network of either layout. */
export function gpt(c: GptShape): Model {
  return {
    modelType: c.modelType,
    hidden: c.C,
    layers: c.layers,
    attention: ownHeads(c.C, c.heads),
    vocabSize: c.V,
    maxPositions: c.positions,
    ...programOf({
      layers: c.layers,
      embed: (b) => embed(c, b),
      block: (b, h, layer) => block(c, b, h, layer),
      head: (b, h) => b.head(norm(c, b, h, 'transformer.ln_f'), c.tied ? WTE : LM_HEAD, c.V),
    }),
    aliases: (name) => aliases(c, name),
  }
}

function embed(c: GptShape, b: Build): Rows {
  const h = b.gather(WTE, c.V, c.C, 'ids') // (R,C) the residual stream
  b.add(b.gather(WPE, c.positions, c.C, 'positions'), h)
  return h
}

function block(c: GptShape, b: Build, h: Rows, i: number): Rows {
  const layer = `transformer.h.${i}`
  const qkv = b.linear(norm(c, b, h, `${layer}.ln_1`), `${layer}.attn.c_attn`, 3 * c.C, c)
  const [q, k, v] = [0, 1, 2].map((part) => b.columns(qkv, part * c.C, c.C)) as [Rows, Rows, Rows]
  const x = b.linear(b.attend(q, k, v), `${layer}.attn.c_proj`, c.C, c)
  h = b.wanted(h)
  b.add(x, h)

  const f = b.activated(norm(c, b, h, `${layer}.ln_2`), `${layer}.mlp.c_fc`, c.F, c.activation, c)
  b.add(b.linear(f, `${layer}.mlp.c_proj`, c.C, c), h)
  return h
}

const norm = ({ eps, bias }: GptShape, b: Build, x: Rows, name: string) =>
  b.layerNorm(x, name, { eps, bias })

/** The hub's gpt2 files hold the bare GPT2Model; a tied table may bear the head's name only. */
function aliases(c: GptShape, name: string): string[] {
  const names = [name]
  if (name.startsWith('transformer.')) names.push(name.slice('transformer.'.length))
  if (name === WTE && c.tied) names.push(LM_HEAD)
  return names
}
