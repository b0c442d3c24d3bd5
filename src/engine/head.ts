// What the head is asked for: logits of rows, or the losses of their targets. A row of which several tokens
// are wanted (the options of a prompt) goes through the head once.

import type { PackedBatch } from '../data/packing.ts'
import type { Tile } from '../device/device.ts'

/** Of rows in rising order. */
export type Wanted =
  | {
      readonly kind: 'loss'
      readonly rows: Uint32Array
      /** [M, perRow] vocabulary indices. */
      readonly targets: Uint32Array
      readonly perRow: number
    }
  | {
      readonly kind: 'logits'
      readonly rows: Uint32Array
      /** data is [P*M, tile.rows]: columns tile.row0.. of the vocabulary. */
      readonly sink: (tile: Tile, data: Float32Array) => void
    }

/** The losses of a batch's labels: distinct rows with their targets, and where each label's loss is among [M, perRow]. */
export interface HeadRows {
  readonly rows: Uint32Array
  readonly targets: Uint32Array
  readonly perRow: number
  readonly places: Uint32Array
}

/** Each row once, each target of it once. */
export function headRows({ rows, targets }: Pick<PackedBatch, 'rows' | 'targets'>): HeadRows {
  const byRow = new Map<number, number[]>()
  rows.forEach((row, label) => {
    const own = byRow.get(row)
    if (!own) byRow.set(row, [targets[label]!])
    else if (!own.includes(targets[label]!)) own.push(targets[label]!)
  })
  const sorted = Uint32Array.from(byRow.keys()).sort()
  const index = new Map([...sorted].map((row, i) => [row, i]))
  const perRow = [...byRow.values()].reduce((most, own) => Math.max(most, own.length), 1)
  const all = new Uint32Array(sorted.length * perRow)
  sorted.forEach((row, i) => {
    const own = byRow.get(row)!
    for (let k = 0; k < perRow; k++) all[i * perRow + k] = own[k] ?? own[0]!
  })
  const places = rows.map((row, label) => {
    return index.get(row)! * perRow + byRow.get(row)!.indexOf(targets[label]!)
  })
  return { rows: sorted, targets: all, perRow, places }
}

/** Asks for the logits [V] of rows under P probes: `logits` has them, probe by probe, once the pass was run. */
export function wantLogits(rows: Uint32Array, vocabSize: number, P = 1) {
  const logits = Array.from({ length: P * rows.length }, () => new Float32Array(vocabSize))
  const sink = (tile: Tile, data: Float32Array) =>
    logits.forEach((row, i) => {
      row.set(data.subarray(i * tile.rows, (i + 1) * tile.rows), tile.row0)
    })
  return { logits, wanted: { kind: 'logits' as const, rows, sink } }
}
