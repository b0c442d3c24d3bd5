// Shapes of batches, for what tests ask planner and working set.

import { evenTexts, packBatch, packTexts } from '../../src/data/packing.ts'
import type { Batch } from '../../src/data/types.ts'
import { largest, type BatchShape } from '../../src/engine/shape.ts'
import { shapeOf } from '../../src/engine/split.ts'

/** Of `texts` texts of `tokens` tokens, all that can be labelled. */
export const evenShape = (probes: number, texts: number, tokens: number): BatchShape =>
  shapeOf(packTexts(evenTexts(texts, tokens)), probes)

/** That all batches fit in. */
export const shapeOfBatches = (probes: number, batches: readonly Batch[]): BatchShape =>
  largest(batches.map((batch) => shapeOf(packBatch(batch), probes)))
