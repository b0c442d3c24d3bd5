// Logits where a batch has labels, and nowhere else: a vocabulary's width for every token of a batch
// would be gigabytes.

import type { Batch } from '../data/types.ts'
import type { Engine } from '../engine/engine.ts'
import { labelledRows, sequenceLosses } from './loss.ts'
import type { Probes } from '../methods/method.ts'
import { forward } from '../engine/forward.ts'

/** Of each sequence, the logits [V] that predict each of its labelled tokens, in order. */
export type LabelLogits = readonly (readonly Float32Array[])[]

/**
 * The logits of a batch under each probe; null: of the weights as they are, as one probe.
 * @throws UserError if no token carries a label
 */
export async function labelLogits(
  engine: Engine,
  batch: Batch,
  probes: Probes | null,
): Promise<LabelLogits[]> {
  const { rows } = labelledRows(batch)
  const { vocabSize } = engine.model
  const P = probes?.list.length ?? 1
  const all = Array.from({ length: P * rows.length }, () => new Float32Array(vocabSize))
  await forward(engine, batch, probes, {
    kind: 'logits',
    rows,
    sink: (tile, data) =>
      all.forEach((row, i) => {
        row.set(data.subarray(i * tile.rows, (i + 1) * tile.rows), tile.row0)
      }),
  })
  const counts = labelCounts(batch)
  let next = 0
  return Array.from({ length: P }, () => counts.map((count) => all.slice(next, (next += count))))
}

/** Labelled tokens of each sequence. */
export const labelCounts = (batch: Batch): number[] =>
  sequenceLosses(new Float64Array(labelledRows(batch).rows.length), batch).map((t) => t.count)
