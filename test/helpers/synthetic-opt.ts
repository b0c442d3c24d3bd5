// Writes OPT checkpoints of any shape with seeded weights, for tests that need several compute tiles
// per matrix and no particular text. The layout is facebook/opt-125m's: pre-norm, tied head.

import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createModel } from '../../models/index.ts'
import { distinctMatrices } from '../../models/model.ts'
import { round16, stdOf } from '../../src/noise/distributions.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'
import { convertElements, type DType } from '../../src/util/dtypes.ts'
import { writeShardedSafetensors } from '../../src/checkpoint/safetensors-writer.ts'

export interface OptShape {
  readonly hidden: number
  readonly ffn: number
  readonly vocab: number
  readonly layers: number
  readonly heads: number
  /** 32 if left out. */
  readonly positions?: number
}

/** fc1 and fc2 have two compute tiles each, the tied head three: 10.6 M parameters. */
export const SEVERAL_TILES: OptShape = { hidden: 512, ffn: 4640, vocab: 9400, layers: 1, heads: 8 }

const POSITIONS = 32

export function optConfig(shape: OptShape): Record<string, unknown> {
  return {
    model_type: 'opt',
    architectures: ['OPTForCausalLM'],
    hidden_size: shape.hidden,
    word_embed_proj_dim: shape.hidden,
    ffn_dim: shape.ffn,
    vocab_size: shape.vocab,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    max_position_embeddings: shape.positions ?? POSITIONS,
    activation_function: 'relu',
    do_layer_norm_before: true,
  }
}

/** Writes config.json and model.safetensors into `dir`, which is made. */
export async function writeSyntheticOpt(dir: string, shape: OptShape, dtype: DType): Promise<void> {
  await mkdir(dir, { recursive: true })
  const config = optConfig(shape)
  await writeFile(join(dir, 'config.json'), JSON.stringify(config))
  const model = createModel(config)
  const specs = [
    ...distinctMatrices(model).map((m) => ({ name: m.name, dtype, shape: [m.rows, m.cols] })),
    ...model.vectors.map((v) => ({ name: v.name, dtype, shape: [v.size] })),
  ]
  await writeShardedSafetensors(dir, specs, async (index, sink) => {
    const { name, shape: dims } = specs[index]!
    const f32 = seededWeights(
      name,
      dims.reduce((product, d) => product * d, 1),
    )
    await sink.write(convertElements(new Uint8Array(f32.buffer), 'F32', dtype))
  })
}

/** Three levels of noise on top of each other: mantissas are full. Norm scales lie about 1. */
function seededWeights(name: string, n: number): Float32Array {
  const centre = /norm\.weight$/.test(name) ? 1 : 0
  const terms = [0.04, 0.0043, 0.00017].map((std, level) => ({
    ...noiseKey(77, level, name, 'z'),
    coefficient: round16(std / stdOf('gaussian')),
    decay: 1,
  }))
  const out = new Float32Array(n)
  const start = new Uint8Array(new Float32Array(n).fill(centre).buffer)
  const recipe = { noise: 'gaussian' as const, terms, scales: [] }
  createNoiseKernel().apply(start, 'F32', 0, recipe, [], out)
  return out
}
