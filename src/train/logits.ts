// Logits where a batch has labels, and nowhere else: a vocabulary's width for every token of a batch
// would be gigabytes.

import { checkLabels, packedApart, type PackedBatch } from '../data/packing.ts'
import type { Engine } from '../engine/engine.ts'
import { apartIn, forward, passOver } from '../engine/forward.ts'
import { headRows, wantLogits } from '../engine/head.ts'
import type { Probes } from '../methods/method.ts'

/** Of each text, the logits [V] that predict each of its labelled tokens, in order. */
export type LabelLogits = readonly (readonly Float32Array[])[]

/**
 * The logits of a batch under each probe; null: of the weights as they are, as one probe.
 * @throws UserError if no token carries a label
 */
export async function labelLogits(
  engine: Engine,
  given: PackedBatch,
  probes: Probes | null,
): Promise<LabelLogits[]> {
  checkLabels(given)
  const batch = packedApart(given, apartIn(engine.model))
  const { rows } = headRows(batch)
  const P = probes?.list.length ?? 1
  const byRow = await logitsOf(engine, batch, rows, probes)
  return Array.from({ length: P }, (_, p) => {
    let next = 0
    return batch.counts.map((count) => {
      const own = batch.rows.subarray(next, (next += count))
      return Array.from(own, (row) => byRow[p]!.get(row)!.slice())
    })
  })
}

/** The logits [V] of rows of a batch, in rising order, by row for each probe. */
export async function logitsOf(
  engine: Engine,
  batch: PackedBatch,
  rows: Uint32Array,
  probes: Probes | null,
): Promise<ReadonlyMap<number, Float32Array>[]> {
  const P = probes?.list.length ?? 1
  const { logits, wanted } = wantLogits(rows, engine.model.vocabSize, P)
  await forward(engine, passOver(engine.model, batch, wanted), probes)
  return Array.from({ length: P }, (_, p) => {
    return new Map([...rows].map((row, i) => [row, logits[p * rows.length + i]!]))
  })
}
