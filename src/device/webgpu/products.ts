// One tile of a slab times the rows of all probes, the step that linear, crossEntropy and logits
// share: `perturb` makes the versions of the tile's weights in scratch, a matmul multiplies the
// rows of each probe with its version, or the rows of all probes with the only one. Weights that are
// f32 and as in the file are read in their slot.

import type { DType } from '../../util/dtypes.ts'
import { noiseOf, perturbs, type Noise } from '../../noise/distributions.ts'
import type { Addend, Rows, Tile, Weights } from '../device.ts'
import { Addends } from './addends.ts'
import type { Operand } from './bindgroups.ts'
import type { Commands } from './commands.ts'
import type { Kernel } from './kernel.ts'
import { blocksOf, FLAG } from './kernels/matmul-common.ts'
import { perturbKernel, perturbSpan } from './kernels/perturb.ts'
import type { TensorOperand } from './handles.ts'
import type { Scratch } from './scratch.ts'
import type { MatmulOf } from './variants.ts'

/** Slab, rows and scratch of one operation. */
export interface Job {
  readonly scratch: Scratch
  /** The slot's bytes and what they mean. */
  readonly raw: GPUBuffer
  readonly weights: Weights
  /** Rows to multiply, [P*rows, K]. */
  readonly x: TensorOperand
  /** K, the columns of x. */
  readonly depth: number
  readonly at: Rows
}

/** Where a product goes: columns from col0 of rows that are `width` wide. */
export interface Target {
  readonly y: Pick<TensorOperand, 'buffer' | 'type'>
  readonly width: number
  readonly col0: number
  readonly bias: Operand | null
  readonly relu: boolean
  readonly addend?: Addend | undefined
}

/** Where the versions of a tile lie, and how the rows of x share them. */
interface Versions {
  readonly w: GPUBuffer
  /** Of the kernels' parameters. */
  readonly params: {
    readonly rows: number
    readonly probe_rows: number
    readonly version: number
    readonly weights0: number
  }
  /** Groups of rows, one for each version. */
  readonly groups: number
}

type PerturbSpec = ReturnType<typeof perturbKernel>
type Perturb = Kernel<PerturbSpec['bindings'], PerturbSpec['params']>

/** Noise is defined for that many elements of a tensor, as in noise/wasm.ts. */
const MAX_ELEMENTS = 2 ** 33

export class Products {
  readonly #commands: Commands
  readonly #perturbs = new Map<string, Perturb>()
  readonly #matmulOf: MatmulOf
  readonly addends: Addends

  constructor(commands: Commands, matmulOf: MatmulOf) {
    this.#commands = commands
    this.#matmulOf = matmulOf
    this.addends = new Addends(commands, matmulOf)
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
    const asInFile = weights.dtype === 'F32' && !apart && weights.recipe.terms.length === 0
    const recipe0 = asInFile ? 0 : scratch.recipe(weights.recipe, versions)
    for (const tile of weights.tiles) {
      checkTile(scratch, weights, tile)
      if (!asInFile) this.#perturb(job, tile, versions, recipe0)
      const apiece: Versions = {
        w: asInFile ? job.raw : scratch.weights,
        params: {
          rows: versions > 1 ? at.rows : at.probes * at.rows,
          probe_rows: at.rows,
          version: versions > 1 ? tile.rows * weights.cols : 0,
          weights0: asInFile ? inSlab(weights, tile) : 0,
        },
        groups: versions,
      }
      if (weights.transposed) this.#multiplyTransposed(job, tile, apiece, target(tile))
      else this.#multiply(job, tile, apiece, target(tile))
      yield tile
    }
  }

  #perturb({ scratch, raw, weights }: Job, tile: Tile, versions: number, recipe0: number) {
    const { cols, dtype, recipe } = weights
    const noise = noiseOf(recipe)
    const { params, groups } = perturbSpan(noise, tile.row0 * cols, tile.rows * cols)
    this.#commands.run(
      this.#perturbOf(dtype, noise),
      { raw, recipe: scratch.recipes, w: scratch.weights },
      {
        ...params,
        offset: inSlab(weights, tile),
        recipe0,
        terms: recipe.terms.length,
        versions,
        zero: 0,
      },
      this.#commands.flat(groups),
    )
  }

  /** Compiled when it is first needed: a run has one noise, and weights of one or two dtypes. */
  #perturbOf(dtype: DType, noise: Noise): Perturb {
    const key = `${dtype} ${noise}`
    let kernel = this.#perturbs.get(key)
    if (!kernel)
      this.#perturbs.set(key, (kernel = this.#commands.compile(perturbKernel(dtype, noise))))
    return kernel
  }

  #multiply({ scratch, weights, x, at }: Job, tile: Tile, versions: Versions, target: Target) {
    const { w, params, groups } = versions
    const sizes = [weights.cols, params.version, params.weights0]
    const types = { x: x.type, y: target.y.type }
    const matmul = this.#matmulOf(params.rows, false, sizes, types)
    this.#commands.run(
      matmul.kernel,
      {
        x: x.buffer,
        w,
        bias: target.bias ?? x.buffer,
        y: target.y.buffer,
        ...addendBuffers(scratch),
      },
      {
        ...params,
        cols: tile.rows,
        depth: weights.cols,
        width: target.width,
        col0: target.col0,
        flags: (target.bias ? FLAG.bias : 0) | (target.relu ? FLAG.relu : 0),
        first: tile.row0,
        ...this.addends.params(target.addend, at),
      },
      [...this.#commands.flat(blocksOf(matmul, params.rows, tile.rows)), groups],
    )
  }

  /** Tiles of K: the first sets y to bias + product, the last one adds the addend. */
  #multiplyTransposed(job: Job, tile: Tile, versions: Versions, target: Target) {
    const { scratch, weights, x, at, depth } = job
    const { w, params, groups } = versions
    const sizes = [tile.rows, weights.cols, depth, tile.row0, params.version, params.weights0]
    const types = { x: x.type, y: target.y.type }
    const matmul = this.#matmulOf(params.rows, true, sizes, types)
    const last = tile.row0 + tile.rows === depth
    const start = target.bias ? FLAG.bias : 0
    this.#commands.run(
      matmul.kernel,
      {
        x: x.buffer,
        w,
        bias: target.bias ?? x.buffer,
        y: target.y.buffer,
        ...addendBuffers(scratch),
      },
      {
        ...params,
        cols: weights.cols,
        depth: tile.rows,
        width: depth,
        col0: tile.row0,
        flags: tile.row0 === 0 ? start : FLAG.accumulate,
        first: 0,
        ...this.addends.params(last ? target.addend : undefined, at),
      },
      [...this.#commands.flat(blocksOf(matmul, params.rows, weights.cols)), groups],
    )
  }
}

/** First element of a tile in its slab. */
const inSlab = ({ tiles, cols }: Weights, tile: Tile) => (tile.row0 - tiles[0]!.row0) * cols

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
