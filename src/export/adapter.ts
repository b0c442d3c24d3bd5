// What a run trained as an adapter in PEFT's format (adapter_config.json and adapter_model.safetensors):
// a prefix; LoRA's matrices; of a LOZO run whose change is still in factors these, as LoRA. Full models
// are folder.ts's business.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Matrix } from '../../models/model.ts'
import { prefixName } from '../../models/prefix.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { loraName } from '../methods/lora.ts'
import type { FactorTerm } from '../noise/factors.ts'
import { buildFolder } from '../checkpoint/convert.ts'
import { writeSafetensors } from '../checkpoint/safetensors-writer.ts'

/** y += (alpha/rank) * (x a^T) b^T for one linear layer; a [rank, K], b [N, rank]. */
interface Target {
  readonly name: string
  readonly a: Float32Array
  readonly b: Float32Array
}

interface Adapter {
  readonly rank: number
  readonly alpha: number
  readonly targets: readonly Target[]
}

type Extra = (folder: string) => Promise<void>

/**
 * Writes LoRA's matrices, or LOZO's factors as such, to `outDir` (absent or empty). `base` is what
 * adapter_config.json names as the base model; `extra` writes further small files.
 * @throws UserError if the run changed more than linear layers, or its change is no longer factored
 */
export async function exportLora(engine: Engine, outDir: string, base: string, extra?: Extra) {
  await write(loraOf(engine), outDir, base, extra)
}

/** Writes the prefix of a run that trains one. */
export async function exportPrefix(engine: Engine, outDir: string, base: string, extra?: Extra) {
  await write(prefixOf(engine), outDir, base, extra)
}

async function write({ config, tensors }: Written, outDir: string, base: string, extra?: Extra) {
  const named = { base_model_name_or_path: base, inference_mode: true, task_type: 'CAUSAL_LM' }
  await buildFolder(outDir, async (folder) => {
    await extra?.(folder)
    const text = JSON.stringify({ ...named, ...config }, null, 2) + '\n'
    await writeFile(join(folder, 'adapter_config.json'), text)
    await writeSafetensors(
      join(folder, 'adapter_model.safetensors'),
      { tensors: tensors.map(({ name, shape }) => ({ name, shape, dtype: 'F32' })) },
      async (index, sink) => {
        const { buffer, byteOffset, byteLength } = tensors[index]!.values
        await sink.write(new Uint8Array(buffer, byteOffset, byteLength))
      },
    )
  })
}

/** What an adapter is written from: PEFT's configuration and its tensors. */
interface Written {
  readonly config: Readonly<Record<string, unknown>>
  readonly tensors: readonly {
    readonly name: string
    readonly shape: readonly number[]
    readonly values: Float32Array
  }[]
}

/**
 * PEFT's PrefixEncoder without projection: prompt_embeddings [n, layers * 2 * kvHeads*D], keys before values. PEFT
 * itself writes the heads of keys into its configuration where queries share them.
 */
function prefixOf({ model, vectors }: Engine): Written {
  const { layers, prefixTokens: n = 0 } = model
  const { kvHeads, headSize } = model.attention
  const cols = kvHeads * headSize
  const width = layers * 2 * cols
  const values = new Float32Array(n * width)
  for (let layer = 0; layer < layers; layer++) {
    for (const [i, part] of (['keys', 'values'] as const).entries()) {
      const rows = vectors.values.get(prefixName(layer, part))!
      for (let t = 0; t < n; t++) {
        const row = rows.subarray(t * cols, (t + 1) * cols)
        values.set(row, t * width + (2 * layer + i) * cols)
      }
    }
  }
  return {
    config: {
      encoder_hidden_size: cols,
      num_attention_heads: kvHeads,
      num_layers: layers,
      num_transformer_submodules: 1,
      num_virtual_tokens: n,
      peft_type: 'PREFIX_TUNING',
      prefix_projection: false,
      token_dim: cols,
    },
    tensors: [{ name: 'prompt_embeddings', shape: [n, width], values }],
  }
}

function loraOf(engine: Engine): Written {
  const { rank, alpha, targets } = adapterOf(engine)
  const config = {
    bias: 'none',
    fan_in_fan_out: engine.model.matrices.some((m) => m.transposed),
    init_lora_weights: true,
    lora_alpha: alpha,
    lora_dropout: 0,
    modules_to_save: null,
    peft_type: 'LORA',
    r: rank,
    target_modules: targets.map(({ name }) => name.replace(/\.weight$/, '')),
  }
  const named = (name: string, part: 'lora_A' | 'lora_B') =>
    `base_model.model.${loraName(name, part)}`
  const tensors = targets.flatMap(({ name, a, b }) => [
    { name: named(name, 'lora_A'), shape: [rank, a.length / rank], values: a },
    { name: named(name, 'lora_B'), shape: [b.length / rank, rank], values: b },
  ])
  return { config, tensors }
}

function adapterOf({ model, state, store, options }: Engine): Adapter {
  if (state.lora) {
    const { rank, alpha, pairs } = state.lora
    return { rank, alpha, targets: [...pairs].map(([name, pair]) => ({ name, ...pair })) }
  }
  const { selection } = options.methodOptions
  const tables = new Set(model.tables.map(({ name }) => name))
  const others = [...model.tables, ...model.vectors].find(({ name }) => selection.trains(name))
  if (model.prefixTokens !== undefined) {
    throw new UserError('a run with --prefix-tokens is written as its prefix: leave out --as-lora')
  }
  if (options.method.addend !== 'low-rank') {
    throw new UserError(
      `a run of ${options.method.name} does not change weights by low-rank matrices; only LOZO and LoRA runs can be exported as an adapter: leave out --as-lora`,
    )
  }
  if (others) {
    throw new UserError(
      `${others.name} was trained too, which a LoRA adapter cannot hold; leave out --as-lora, or train with --train-only '*proj.weight,*fc1.weight,*fc2.weight'`,
    )
  }
  const changed = model.matrices.flatMap((matrix) => {
    const change = state.change(matrix.name)
    const decayed = change.kind === 'factored' && change.decay !== 1
    if (store.version(matrix.name) > 0 || decayed) {
      throw new UserError(
        `${matrix.name}: its change is no longer in factors (windows were folded, or weights decayed); leave out --as-lora, or train with a larger --fold-windows and no --weight-decay`,
      )
    }
    return change.terms.length === 0 || tables.has(matrix.name)
      ? []
      : [{ matrix, terms: change.terms as readonly FactorTerm[] }]
  })
  const rankOf = (terms: readonly FactorTerm[]) =>
    terms.reduce((sum, term) => sum + (term.kind === 'low-rank' ? term.rank : 0), 0)
  // PEFT has one rank for all: a matrix that trained in fewer windows is filled up with zeros.
  const rank = changed.reduce((most, { terms }) => Math.max(most, rankOf(terms)), 1)
  const targets = changed.map(({ matrix, terms }) => stack(matrix, terms, rank))
  return { rank, alpha: rank, targets }
}

/** The terms side by side: b takes their left factors, a their right ones. */
function stack(
  { name, rows, cols, transposed }: Matrix,
  terms: readonly FactorTerm[],
  rank: number,
): Target {
  const [tall, flat] = [new Float32Array(rows * rank), new Float32Array(rank * cols)]
  let at = 0
  for (const term of terms) {
    if (term.kind !== 'low-rank') continue
    for (let c = 0; c < term.rank; c++, at++) {
      for (let i = 0; i < rows; i++) tall[i * rank + at] = term.left[i * term.rank + c]!
      flat.set(term.right.subarray(c * cols, (c + 1) * cols), at * cols)
    }
  }
  if (!transposed) return { name, a: flat, b: tall }
  const turn = (m: Float32Array, h: number, w: number) =>
    m.map((_, i) => m[(i % h) * w + Math.floor(i / h)]!)
  return { name, a: turn(tall, rows, rank), b: turn(flat, rank, cols) }
}
