// Finds a model's tensors in a checkpoint: names by the model's aliases, shapes checked, so that a
// wrong file is one sentence before the first byte of weights is read.

import type { Matrix, Model } from '../../models/model.ts'
import { UserError } from '../util/errors.ts'
import type { Checkpoint, TensorEntry } from '../checkpoint/types.ts'

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
    if (!entry) {
      throw new UserError(
        `${checkpoint.dir}: no tensor ${names.join(' or ')}; config.json does not fit the weights`,
      )
    }
    if (entry.shape.join() !== shape.join()) {
      throw new UserError(
        `${checkpoint.dir}: ${entry.name} has shape [${entry.shape.join(', ')}], config.json means [${shape.join(', ')}]; config.json does not fit the weights`,
      )
    }
    return { ...entry, name }
  }
  const distinct = new Map([...model.tables, ...model.matrices].map((m) => [m.name, m]))
  return {
    matrices: [...distinct.values()].map((matrix) => ({
      matrix,
      entry: find(matrix.name, [matrix.rows, matrix.cols]),
    })),
    vectors: model.vectors.map((v) => find(v.name, [v.size])),
  }
}
