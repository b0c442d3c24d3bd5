// A run's change of the weights as a LoRA adapter in PEFT's format (adapter_config.json and
// adapter_model.safetensors): of a LoRA run its matrices, of a LOZO run whose change is still in
// factors S and V. Full models are export.ts's business.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Matrix } from '../models/model.ts'
import type { Engine } from './engine.ts'
import { UserError } from './errors.ts'
import { loraName } from './methods/lora.ts'
import type { FactorTerm } from './noise/factors.ts'
import { buildFolder } from './weights/convert.ts'
import { writeSafetensors } from './weights/safetensors-writer.ts'

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

/**
 * Writes `outDir` (absent or empty). `base` is what adapter_config.json names as the base model;
 * `extra` writes further small files.
 * @throws UserError if the run changed more than linear layers, or its change is no longer factored
 */
export async function exportAdapter(
  engine: Engine,
  outDir: string,
  base: string,
  extra?: (folder: string) => Promise<void>,
): Promise<void> {
  const { rank, alpha, targets } = adapterOf(engine)
  const config = {
    base_model_name_or_path: base,
    bias: 'none',
    fan_in_fan_out: engine.model.matrices.some((m) => m.transposed),
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: alpha,
    lora_dropout: 0,
    modules_to_save: null,
    peft_type: 'LORA',
    r: rank,
    target_modules: targets.map(({ name }) => name.replace(/\.weight$/, '')),
    task_type: 'CAUSAL_LM',
  }
  const tensors = targets.flatMap(({ name, a, b }) => [
    { part: 'lora_A' as const, name, shape: [rank, a.length / rank], values: a },
    { part: 'lora_B' as const, name, shape: [b.length / rank, rank], values: b },
  ])
  await buildFolder(outDir, async (folder) => {
    await extra?.(folder)
    await writeFile(join(folder, 'adapter_config.json'), JSON.stringify(config, null, 2) + '\n')
    await writeSafetensors(
      join(folder, 'adapter_model.safetensors'),
      {
        tensors: tensors.map(({ name, part, shape }) => ({
          ...{ name: `base_model.model.${loraName(name, part)}`, shape, dtype: 'F32' },
        })),
      },
      async (index, sink) => {
        const { buffer, byteOffset, byteLength } = tensors[index]!.values
        await sink.write(new Uint8Array(buffer, byteOffset, byteLength))
      },
    )
  })
}

function adapterOf({ model, state, store, options }: Engine): Adapter {
  if (state.lora) {
    const { rank, alpha, pairs } = state.lora
    return { rank, alpha, targets: [...pairs].map(([name, pair]) => ({ name, ...pair })) }
  }
  const { selection } = options.methodOptions
  const tables = new Set(model.tables.map(({ name }) => name))
  const others = [...model.tables, ...model.vectors].find(({ name }) => selection.trains(name))
  if (options.method.structure !== 'low-rank') {
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
