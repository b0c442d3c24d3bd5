// One tile of a slab times the rows of all probes, the step that linear, crossEntropy and logits
// share: `perturb` makes the versions of the tile's weights in scratch, a matmul multiplies the
// rows of each probe with its version.

import type { DType } from '../../weights/types.ts'
import { perturbs } from '../../noise/distributions.ts'
import type { Addend, Rows, Tile, Weights } from '../device.ts'
import { Addends } from './addends.ts'
import { type Commands, flatGroups } from './commands.ts'
import { matmulSoftwareKernel, SOFTWARE_BLOCK } from './kernels/matmul-software.ts'
import { MATMUL_BLOCK, MATMUL_INTERFACE, matmulKernel } from './kernels/matmul.ts'
import { matmulTransposedKernel, TRANSPOSED_BLOCK } from './kernels/matmul-transposed.ts'
import type { Kernel } from './kernel.ts'
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
  /** K, the columns of x. */
  readonly depth: number
  readonly at: Rows
}

/** Where a product goes: columns from col0 of rows that are `width` wide. */
export interface Target {
  readonly y: GPUBuffer
  readonly width: number
  readonly col0: number
  readonly bias: GPUBuffer | null
  readonly relu: boolean
  readonly addend?: Addend | undefined
}

type Interface = typeof MATMUL_INTERFACE

/** A matmul with the rows and columns that one workgroup makes. */
export interface MatmulKernel {
  readonly kernel: Kernel<Interface['bindings'], Interface['params']>
  readonly block: { readonly rows: number; readonly cols: number }
}

/** Noise is defined for that many elements of a tensor, as in noise/wasm.ts. */
const MAX_ELEMENTS = 2 ** 33

export class Products {
  readonly #commands: Commands
  readonly #perturbs
  readonly #matmul: MatmulKernel
  readonly #transposed
  readonly addends: Addends

  constructor(commands: Commands, software: boolean) {
    this.#commands = commands
    this.#perturbs = {
      F32: commands.compile(perturbKernel('F32')),
      F16: commands.compile(perturbKernel('F16')),
      BF16: commands.compile(perturbKernel('BF16')),
    } satisfies Record<DType, unknown>
    this.#matmul = {
      kernel: commands.compile(software ? matmulSoftwareKernel : matmulKernel),
      block: software ? SOFTWARE_BLOCK : MATMUL_BLOCK,
    }
    this.#transposed = commands.compile(matmulTransposedKernel)
    this.addends = new Addends(commands, this.#matmul)
  }

  /** Records each tile's product into what `target` names, then hands the tile out. */
  *tiles(job: Job, target: (tile: Tile) => Target): Generator<Tile> {
    const { weights, at, scratch } = job
    const { scales } = weights.recipe
    const apart = perturbs(weights.recipe)
    if (apart && scales.length !== 1 && scales.length !== at.probes) {
      throw new RangeError(
        `${weights.name}: the recipe has ${scales.length} scales for ${at.probes} probes`,
      )
    }
    if (at.rows === 0) return
    const versions = apart ? scales.length : 1
    const recipe0 = scratch.recipe(weights.recipe, versions)
    for (const tile of weights.tiles) {
      checkTile(scratch, weights, tile)
      this.#perturb(job, tile, versions, recipe0)
      if (weights.transposed) this.#multiplyTransposed(job, tile, versions, target(tile))
      else this.#multiply(job, tile, versions, target(tile))
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
        zero: 0,
      },
      flatGroups(Math.ceil((count + lead) / 512)),
    )
  }

  #multiply({ scratch, weights, x, at }: Job, tile: Tile, versions: number, target: Target) {
    const { kernel, block } = this.#matmul
    const addend = this.addends.params(target.addend, at)
    this.#commands.run(
      kernel,
      { x, w: scratch.weights, bias: target.bias ?? x, y: target.y, ...addendBuffers(scratch) },
      {
        rows: at.rows,
        cols: tile.rows,
        depth: weights.cols,
        version: versions > 1 ? tile.rows * weights.cols : 0,
        width: target.width,
        col0: target.col0,
        has_bias: target.bias ? 1 : 0,
        relu: target.relu ? 1 : 0,
        weights0: 0,
        first: tile.row0,
        ...addend,
      },
      [Math.ceil(tile.rows / block.cols), Math.ceil(at.rows / block.rows), at.probes],
    )
  }

  /** Tiles of K: the first sets y to bias + product, the last one adds the addend. */
  #multiplyTransposed(job: Job, tile: Tile, versions: number, target: Target) {
    const { scratch, weights, x, at, depth } = job
    const last = tile.row0 + tile.rows === depth
    const start = tile.row0 === 0
    this.#commands.run(
      this.#transposed,
      { x, w: scratch.weights, bias: target.bias ?? x, y: target.y, ...addendBuffers(scratch) },
      {
        rows: at.rows,
        cols: weights.cols,
        depth: tile.rows,
        version: versions > 1 ? tile.rows * weights.cols : 0,
        width_x: depth,
        k0: tile.row0,
        has_bias: start && target.bias ? 1 : 0,
        accumulate: start ? 0 : 1,
        first: 0,
        ...this.addends.params(last ? target.addend : undefined, at),
      },
      [
        Math.ceil(weights.cols / TRANSPOSED_BLOCK.cols),
        Math.ceil(at.rows / TRANSPOSED_BLOCK.rows),
        at.probes,
      ],
    )
  }
}

const addendBuffers = ({ projection, factors }: Scratch) => ({ projection, factors })

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
