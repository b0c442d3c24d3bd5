// One tile of a slab times the rows of all probes, the step that linear, crossEntropy and logits
// share: `perturb` makes the versions of the tile's weights in scratch, a matmul multiplies the
// rows of each probe with its version.

import type { DType } from '../../weights/types.ts'
import type { Rows, Tile, Weights } from '../device.ts'
import { type Commands, flatGroups } from './commands.ts'
import { matmulSoftwareKernel, SOFTWARE_BLOCK } from './kernels/matmul-software.ts'
import { MATMUL_BLOCK, matmulKernel } from './kernels/matmul.ts'
import { perturbKernel } from './kernels/perturb.ts'
import type { Scratch } from './scratch.ts'

/** Slab, rows and scratch of one operation. */
export interface Job {
  readonly scratch: Scratch
  /** The slot's bytes and what they mean. */
  readonly raw: GPUBuffer
  readonly weights: Weights
  /** Rows to multiply, [P*rows, K]. */
  readonly x: GPUBuffer
  readonly at: Rows
}

/** Where a product goes: columns from col0 of rows that are `width` wide. */
export interface Target {
  readonly y: GPUBuffer
  readonly width: number
  readonly col0: number
  readonly bias: GPUBuffer | null
  readonly relu: boolean
}

/** Noise is defined for that many elements of a tensor, as in noise/wasm.ts. */
const MAX_ELEMENTS = 2 ** 33

export class Products {
  readonly #commands: Commands
  readonly #perturbs
  readonly #matmul
  readonly #block

  constructor(commands: Commands, software: boolean) {
    this.#commands = commands
    this.#perturbs = {
      F32: commands.compile(perturbKernel('F32')),
      F16: commands.compile(perturbKernel('F16')),
      BF16: commands.compile(perturbKernel('BF16')),
    } satisfies Record<DType, unknown>
    this.#matmul = commands.compile(software ? matmulSoftwareKernel : matmulKernel)
    this.#block = software ? SOFTWARE_BLOCK : MATMUL_BLOCK
  }

  /** Records each tile's product into what `target` names, then hands the tile out. */
  *tiles(job: Job, target: (tile: Tile) => Target): Generator<Tile> {
    const { weights, at, scratch } = job
    const { probe, scales } = weights.recipe
    if (probe && scales.length !== at.probes) {
      throw new RangeError(
        `${weights.name}: the recipe has ${scales.length} scales for ${at.probes} probes`,
      )
    }
    if (at.rows === 0) return
    const versions = probe ? at.probes : 1
    const recipe0 = scratch.recipe(weights.recipe, versions)
    for (const tile of weights.tiles) {
      checkTile(scratch, weights, tile)
      this.#perturb(job, tile, versions, recipe0)
      this.#multiply(job, tile, versions, target(tile))
      yield tile
    }
  }

  #perturb({ scratch, raw, weights }: Job, tile: Tile, versions: number, recipe0: number) {
    const { cols, tiles, dtype, recipe } = weights
    const first = tile.row0 * cols
    const count = tile.rows * cols
    const pair = Math.floor(first / 2)
    const lead = first % 2
    this.#commands.run(
      this.#perturbs[dtype],
      { raw, recipe: scratch.recipes, w: scratch.weights },
      {
        offset: (tile.row0 - tiles[0]!.row0) * cols,
        count,
        pair_low: pair % 2 ** 32,
        pair_high: Math.floor(pair / 2 ** 32),
        lead,
        recipe0,
        terms: recipe.terms.length,
        versions,
        has_probe: recipe.probe ? 1 : 0,
        probe0: recipe.probe?.k0 ?? 0,
        probe1: recipe.probe?.k1 ?? 0,
        zero: 0,
      },
      flatGroups(Math.ceil((count + lead) / 512)),
    )
  }

  #multiply({ scratch, weights, x, at }: Job, tile: Tile, versions: number, target: Target) {
    const block = this.#block
    this.#commands.run(
      this.#matmul,
      { x, w: scratch.weights, bias: target.bias ?? x, y: target.y },
      {
        rows: at.rows,
        cols: tile.rows,
        depth: weights.cols,
        version: versions > 1 ? tile.rows * weights.cols : 0,
        width: target.width,
        col0: target.col0,
        has_bias: target.bias ? 1 : 0,
        relu: target.relu ? 1 : 0,
      },
      [Math.ceil(tile.rows / block.cols), Math.ceil(at.rows / block.rows), at.probes],
    )
  }
}

function checkTile({ workload }: Scratch, { name, cols }: Weights, tile: Tile) {
  if (tile.rows * cols > workload.tileElements) {
    throw new RangeError(
      `${name}: a tile of ${tile.rows} x ${cols} exceeds the ${workload.tileElements} elements ` +
        'that were reserved',
    )
  }
  if ((tile.row0 + tile.rows) * cols > MAX_ELEMENTS) {
    throw new RangeError(`${name}: noise is defined for the first 2^33 elements of a tensor`)
  }
}
