// Which rows of a batch carry a label, and what they should predict: labels[t] is predicted from
// row t - 1, as in Hugging Face's causal language models.

import { IGNORED, type Batch } from './data/types.ts'
import { UserError } from './errors.ts'

/**
 * Row indices b*T + t (t the position before the label) and vocabulary targets, in row order.
 * @throws UserError if no token carries a label
 */
export function labelledRows(batch: Batch): { rows: Uint32Array; targets: Uint32Array } {
  const rows: number[] = []
  const targets: number[] = []
  batch.labels.forEach((labels, b) => {
    for (let t = 1; t < labels.length; t++) {
      if (labels[t] === IGNORED) continue
      rows.push(b * labels.length + t - 1)
      targets.push(labels[t]!)
    }
  })
  if (rows.length === 0) {
    throw new UserError('a batch has no labelled token: every label is -100 (or stands first)')
  }
  return { rows: Uint32Array.from(rows), targets: Uint32Array.from(targets) }
}
