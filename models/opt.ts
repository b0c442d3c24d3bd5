// OPT (HF model_type "opt", modeling_opt.py): config keys and tensor names verbatim, every layout:
// pre-norm (125m, 1.3b, ...), post-norm with project_in/out and no final norm (350m), tied and
// untied heads, checkpoints whose names lack the leading "model.".

import type { Activation, Tensor } from '../src/device/device.ts'
import {
  checkHeads,
  readActivation,
  readCount,
  readFlag,
  readLayers,
  type Config,
} from './config.ts'
import { activatedLinear, layerNorm, optPositions, tokenRows } from './layers.ts'
import type { Buffer, Matrix, Model, ModelInput, Run, Vector } from './model.ts'

const EMBED_TOKENS = 'model.decoder.embed_tokens.weight'
const EMBED_POSITIONS = 'model.decoder.embed_positions.weight'
const LM_HEAD = 'lm_head.weight'
const LINEARS = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.out_proj']

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
    heads: c.heads,
    vocabSize: c.V,
    maxPositions: c.positions,
    matrices: matrices(c),
    tables: [
      { name: EMBED_TOKENS, rows: c.V, cols: c.E, block: -1 },
      { name: EMBED_POSITIONS, rows: c.positions + 2, cols: c.C, block: -1 },
    ],
    vectors: vectors(c),
    buffers: buffers(c),
    aliases: (name) => aliases(c, name),
    forward: (run, input) => forward(c, run, input),
  }
}

async function forward(c: OptConfig, run: Run, input: ModelInput): Promise<void> {
  const { device } = run
  let h = run.buffer('h') // (R,C) the residual stream
  let x = run.buffer('x') // (R,C)
  const [q, k, v, f] = ['q', 'k', 'v', 'f'].map((label) => run.buffer(label)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ]

  if (c.E === c.C) {
    await run.gather(EMBED_TOKENS, tokenRows(input), h)
  } else {
    const e = run.buffer('e') // (R,E)
    await run.gather(EMBED_TOKENS, tokenRows(input), e)
    await run.linear(e, 'model.decoder.project_in', h)
  }
  await run.gather(EMBED_POSITIONS, optPositions(input), x)
  await device.add(x, h, run.at)

  for (let i = 0; i < c.layers; i++) {
    const layer = `model.decoder.layers.${i}`
    ;[h, x] = await run.enterBlock(i, h, x)

    let a = h
    if (c.preNorm) await layerNorm(run, h, `${layer}.self_attn_layer_norm`, (a = x))
    await run.linear(a, `${layer}.self_attn.q_proj`, q)
    await run.linear(a, `${layer}.self_attn.k_proj`, k)
    await run.linear(a, `${layer}.self_attn.v_proj`, v)
    await run.attend(i, q, k, v, x)
    await run.linear(x, `${layer}.self_attn.out_proj`, q)
    await device.add(q, h, run.at)
    if (!c.preNorm) {
      await layerNorm(run, h, `${layer}.self_attn_layer_norm`, x)
      ;[h, x] = [x, h]
    }

    a = h
    if (c.preNorm) await layerNorm(run, h, `${layer}.final_layer_norm`, (a = x))
    await activatedLinear(run, a, `${layer}.fc1`, c.activation, f)
    await run.linear(f, `${layer}.fc2`, x)
    await device.add(x, h, run.at)
    if (!c.preNorm) {
      await layerNorm(run, h, `${layer}.final_layer_norm`, x)
      ;[h, x] = [x, h]
    }
  }

  ;[h, x] = await run.enterBlock(c.layers, h, x)
  // Norm, projection and head work on the rows whose logits are wanted, nothing else.
  const rows = await run.selectRows(h, x)
  let last = x
  if (c.finalNorm) await layerNorm(run, x, 'model.decoder.final_layer_norm', (last = q), rows)
  if (c.E !== c.C) await run.linear(last, 'model.decoder.project_out', (last = run.buffer('e')))
  await run.head(last, c.tied ? EMBED_TOKENS : LM_HEAD)
}

function matrices(c: OptConfig): Matrix[] {
  const list: Matrix[] = []
  const add = (name: string, rows: number, cols: number, block: number) =>
    list.push({ name: `${name}.weight`, rows, cols, block })
  if (c.E !== c.C) add('model.decoder.project_in', c.C, c.E, -1)
  for (let i = 0; i < c.layers; i++) {
    const layer = `model.decoder.layers.${i}`
    for (const linear of LINEARS) add(`${layer}.${linear}`, c.C, c.C, i)
    add(`${layer}.fc1`, c.F, c.C, i)
    add(`${layer}.fc2`, c.C, c.F, i)
  }
  if (c.E !== c.C) add('model.decoder.project_out', c.E, c.C, c.layers)
  list.push({ name: c.tied ? EMBED_TOKENS : LM_HEAD, rows: c.V, cols: c.E, block: c.layers })
  return list
}

function vectors(c: OptConfig): Vector[] {
  const list: Vector[] = []
  const norm = (name: string) => {
    if (!c.affine) return
    list.push({ name: `${name}.weight`, size: c.C }, { name: `${name}.bias`, size: c.C })
  }
  for (let i = 0; i < c.layers; i++) {
    const layer = `model.decoder.layers.${i}`
    if (c.bias) {
      for (const linear of LINEARS) list.push({ name: `${layer}.${linear}.bias`, size: c.C })
      list.push({ name: `${layer}.fc1.bias`, size: c.F }, { name: `${layer}.fc2.bias`, size: c.C })
    }
    norm(`${layer}.self_attn_layer_norm`)
    norm(`${layer}.final_layer_norm`)
  }
  if (c.finalNorm) norm('model.decoder.final_layer_norm')
  return list
}

function buffers(c: OptConfig): Buffer[] {
  const list: Buffer[] = ['h', 'x'].map((label) => ({ label, cols: c.C }))
  list.push({ label: 'f', cols: c.F }) // after attention: q, k and v are done with
  for (const label of ['q', 'k', 'v']) list.push({ label, cols: c.C, inside: 'f' })
  if (c.E !== c.C) list.push({ label: 'e', cols: c.E })
  return list
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
