// Compute tiles of a sixteenth of the usual size, and a model as much smaller that has several of them in a matrix. A
// test file mocks scheduler/tile-elements.ts by this one. At the usual size: test/runs/synthetic.test.ts.

import type { OptShape } from './synthetic-opt.ts'

export const TILE_ELEMENTS = (768 * 3072) / 16

/** fc1 and fc2 have two compute tiles each, the tied head three. */
export const SEVERAL_SMALL_TILES: OptShape = {
  hidden: 128,
  ffn: 1160,
  vocab: 2350,
  layers: 1,
  heads: 8,
}
