// GPT-2 (HF model_type "gpt2", modeling_gpt2.py): config keys and tensor names verbatim. Linear
// weights lie transposed, [in, out] (Conv1D), q, k and v in one c_attn; the hub's own files lack the
// leading "transformer.". nanogpt.ts is the same network under other keys and runs this code.

import type { Activation } from '../src/device/device.ts'
import { UserError } from '../src/util/errors.ts'
import {
  checkHeads,
  readActivation,
  readCount,
  readFlag,
  readLayers,
  readPositive,
  type Config,
} from './config.ts'
import { activatedLinear, layerNorm, positions, tokenRows } from './layers.ts'
import type { Buffer, Matrix, Model, ModelInput, Run, Vector } from './model.ts'

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
    heads: c.heads,
    vocabSize: c.V,
    maxPositions: c.positions,
    matrices: matrices(c),
    tables: [
      { name: WTE, rows: c.V, cols: c.C, block: -1 },
      { name: WPE, rows: c.positions, cols: c.C, block: -1 },
    ],
    vectors: vectors(c),
    buffers: buffers(c),
    aliases: (name) => aliases(c, name),
    forward: (run, input) => forward(c, run, input),
  }
}

async function forward(c: GptShape, run: Run, input: ModelInput): Promise<void> {
  const { device } = run
  let h = run.buffer('h') // (R,C) the residual stream
  let x = run.buffer('x') // (R,C)
  const qkv = run.buffer('qkv') // (R,3C)
  const [q, k, v] = [run.buffer('q'), run.buffer('k'), run.buffer('v')] // (R,C)
  const f = run.buffer('f') // (R,F)

  await run.gather(WTE, tokenRows(input), h)
  await run.gather(WPE, positions(input), x)
  await device.add(x, h, run.at)

  for (let i = 0; i < c.layers; i++) {
    const block = `transformer.h.${i}`
    ;[h, x] = await run.enterBlock(i, h, x)

    await layerNorm(run, h, `${block}.ln_1`, x, run.at, c.eps)
    await run.linear(x, `${block}.attn.c_attn`, qkv)
    for (const [part, y] of [q, k, v].entries()) {
      await device.copyColumns(qkv, part * c.C, y, run.at)
    }
    await run.attend(i, q, k, v, x)
    await run.linear(x, `${block}.attn.c_proj`, q)
    await device.add(q, h, run.at)

    await layerNorm(run, h, `${block}.ln_2`, x, run.at, c.eps)
    await activatedLinear(run, x, `${block}.mlp.c_fc`, c.activation, f, c)
    await run.linear(f, `${block}.mlp.c_proj`, x)
    await device.add(x, h, run.at)
  }

  ;[h, x] = await run.enterBlock(c.layers, h, x)
  // The last norm and the head work on the rows whose logits are wanted, nothing else.
  const rows = await run.selectRows(h, x)
  await layerNorm(run, x, 'transformer.ln_f', q, rows, c.eps)
  await run.head(q, c.tied ? WTE : LM_HEAD)
}

/** Name and [out, in] of a block's linears, in order of use. */
const linears = ({ C, F }: GptShape) =>
  [
    ['attn.c_attn', 3 * C, C],
    ['attn.c_proj', C, C],
    ['mlp.c_fc', F, C],
    ['mlp.c_proj', C, F],
  ] as const

function matrices(c: GptShape): Matrix[] {
  const list: Matrix[] = []
  for (let i = 0; i < c.layers; i++) {
    for (const [linear, N, K] of linears(c)) {
      const name = `transformer.h.${i}.${linear}.weight`
      const shape = c.transposed ? { rows: K, cols: N, transposed: true } : { rows: N, cols: K }
      list.push({ name, ...shape, block: i })
    }
  }
  list.push({ name: c.tied ? WTE : LM_HEAD, rows: c.V, cols: c.C, block: c.layers })
  return list
}

function vectors(c: GptShape): Vector[] {
  const list: Vector[] = []
  const norm = (name: string) => {
    list.push({ name: `${name}.weight`, size: c.C })
    if (c.bias) list.push({ name: `${name}.bias`, size: c.C })
  }
  for (let i = 0; i < c.layers; i++) {
    const block = `transformer.h.${i}`
    norm(`${block}.ln_1`)
    norm(`${block}.ln_2`)
    if (!c.bias) continue
    for (const [linear, N] of linears(c)) list.push({ name: `${block}.${linear}.bias`, size: N })
  }
  norm('transformer.ln_f')
  return list
}

function buffers(c: GptShape): Buffer[] {
  const list: Buffer[] = ['h', 'x'].map((label) => ({ label, cols: c.C }))
  list.push({ label: 'qkv', cols: 3 * c.C })
  list.push({ label: 'f', cols: c.F }) // after attention: q, k and v are done with
  for (const label of ['q', 'k', 'v']) list.push({ label, cols: c.C, inside: 'f' })
  return list
}

/** The hub's gpt2 files hold the bare GPT2Model; a tied table may bear the head's name only. */
function aliases(c: GptShape, name: string): string[] {
  const names = [name]
  if (name.startsWith('transformer.')) names.push(name.slice('transformer.'.length))
  if (name === WTE && c.tied) names.push(LM_HEAD)
  return names
}
