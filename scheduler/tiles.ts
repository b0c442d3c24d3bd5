// Compute tiles and slabs: how a matrix is cut. Tiles depend on the matrix's shape alone, so that
// every budget gives the same bits (a library GEMM chooses its blocking by size); slabs are runs of
// whole tiles and are what travels.

import type { Tile } from '../src/device/device.ts'
import { TILE_ELEMENTS } from './tile-elements.ts'

/** Rows of the highest tile of a matrix [rows, cols]. */
export function tileHeight(rows: number, cols: number): number {
  const most = Math.max(1, Math.floor(TILE_ELEMENTS / cols))
  const count = Math.ceil(rows / most)
  // Heights that are multiples of 16 suit every GEMM; never above what the limit allows.
  const even = Math.ceil(rows / count)
  return count === 1 ? rows : Math.min(most, Math.ceil(even / 16) * 16)
}

/** Tiles of a matrix [rows, cols], in row order, of nearly equal height. */
export function tilesOf(rows: number, cols: number): Tile[] {
  const height = tileHeight(rows, cols)
  const tiles: Tile[] = []
  for (let row0 = 0; row0 < rows; row0 += height) {
    tiles.push({ row0, rows: Math.min(height, rows - row0) })
  }
  return tiles
}

/** Cuts tiles into runs of at most `slabElements` elements; a run has at least one tile. */
export function slabTiles(tiles: readonly Tile[], cols: number, slabElements: number): Tile[][] {
  const runs: Tile[][] = []
  let elements = 0
  for (const tile of tiles) {
    const run = runs.at(-1)
    if (run && elements + tile.rows * cols <= slabElements) {
      run.push(tile)
      elements += tile.rows * cols
    } else {
      runs.push([tile])
      elements = tile.rows * cols
    }
  }
  return runs
}
