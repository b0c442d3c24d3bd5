// Finds a model's tensors in a checkpoint: names by the model's aliases, shapes checked, so that a
// wrong file is one sentence before the first byte of weights is read; and those that it has no use for.

import { distinctMatrices, type Matrix, type Model } from '../../models/model.ts'
import { UserError } from '../util/errors.ts'
import { openFiles, type WeightFiles } from '../checkpoint/files.ts'
import type { Checkpoint, TensorEntry } from '../checkpoint/types.ts'
import { excerpt, quote } from '../util/untrusted.ts'

/** Where every tensor of the model lies, by the model's own names. */
export interface ModelTensors {
  /** Each distinct matrix once, in the order of first use: gathered tables, then streamed ones. */
  readonly matrices: readonly { readonly matrix: Matrix; readonly entry: TensorEntry }[]
  readonly vectors: readonly TensorEntry[]
}

/** @throws UserError naming a tensor that is missing or has another shape than config.json says. */
export function findTensors(model: Model, checkpoint: Checkpoint): ModelTensors {
  const find = (name: string, shape: readonly number[]): TensorEntry => {
    const names = model.aliases(name)
    const entry = names.map((n) => checkpoint.tensors.get(n)).find((e) => e !== undefined)
    const other = names.find((n) => checkpoint.others?.has(n))
    if (!entry && other !== undefined) {
      throw new UserError(
        `${checkpoint.dir}: expected ${quote(other)} to be F32, F16 or BF16, found ${checkpoint.others!.get(other)}; convert the checkpoint to one of these`,
      )
    }
    if (!entry) {
      throw new UserError(
        `${checkpoint.dir}: no tensor ${names.join(' or ')}; config.json does not fit the weights`,
      )
    }
    if (entry.shape.join() !== shape.join()) {
      throw new UserError(
        `${checkpoint.dir}: ${quote(entry.name)} has shape ${excerpt(entry.shape)}, config.json means ${excerpt(shape)}; config.json does not fit the weights`,
      )
    }
    return { ...entry, name }
  }
  return {
    matrices: distinctMatrices(model).map((matrix) => ({
      matrix,
      entry: find(matrix.name, [matrix.rows, matrix.cols]),
    })),
    vectors: model.vectors.map((v) => find(v.name, [v.size])),
  }
}

/** GPT-2 files hold each block's causal mask beside its weights; buffers of that kind are no weights. */
const BUFFER = /(^|\.)(attn\.(masked_)?bias|position_ids|rotary_emb\.inv_freq)$/

/** Bytes of two tensors that are compared at either end: weights of two trainings differ in these. */
const SAMPLE_BYTES = 4096

/**
 * Tensors of the checkpoint that have no place in the model of its config.json: further layers, biases
 * where there are to be none, another head than the one that is tied. In the file's order.
 */
export async function ignoredTensors(model: Model, checkpoint: Checkpoint): Promise<string[]> {
  const { tensors, others } = checkpoint
  const used = new Set<string>()
  const twins: [TensorEntry, TensorEntry][] = []
  for (const { name } of [...model.tables, ...model.matrices, ...model.vectors]) {
    const [first, ...more] = model.aliases(name).flatMap((alias) => tensors.get(alias) ?? [])
    if (first) used.add(first.name)
    for (const other of more) twins.push([first!, other])
  }
  const files = await openFiles(twins.flat().map(({ file }) => file))
  try {
    for (const [first, other] of twins) {
      if (await areAlike(files, first, other)) used.add(other.name)
    }
  } finally {
    await files.close()
  }
  const names = [...tensors.keys(), ...(others?.keys() ?? [])]
  return names.filter((name) => !used.has(name) && !BUFFER.test(name))
}

/** Whether two tensors are the same numbers, as far as their ends tell. */
async function areAlike(files: WeightFiles, a: TensorEntry, b: TensorEntry): Promise<boolean> {
  if (a.file === b.file && a.offsetBytes === b.offsetBytes) return true
  if (a.dtype !== b.dtype || a.bytes !== b.bytes) return false
  const [one, other] = [0, 0].map(() => Buffer.alloc(Math.min(SAMPLE_BYTES, a.bytes)))
  for (const at of [0, a.bytes - one!.length]) {
    await files.read(a, at, one!)
    await files.read(b, at, other!)
    if (!one!.equals(other!)) return false
  }
  return true
}
