// The operations that use up a committed slab: linear, crossEntropy and logits; and project, which
// prepares their addends.

import {
  checkHead,
  checkLinear,
  type Addend,
  type Device,
  type Rows,
  type Slot,
  type Tensor,
  type Tile,
  type Weights,
} from '../device.ts'
import { crossEntropyKernel } from './kernels/cross-entropy.ts'
import { softCapKernel } from './kernels/soft-cap.ts'
import { type Job, Products, type Target } from './products.ts'
import type { Runtime } from './runtime.ts'
import { type VariantChoice, createMatmuls } from './variants.ts'

type SlabPart = Pick<Device, 'project' | 'linear' | 'crossEntropy' | 'logits'>

export function createSlabPart(runtime: Runtime, choice: VariantChoice): SlabPart {
  const { commands, memories, readback } = runtime
  const products = new Products(commands, createMatmuls(commands, runtime.adapter, choice))
  const crossEntropy = commands.compile(crossEntropyKernel)
  const softCap = commands.compile(softCapKernel)
  /** Caps the logits of a tile where they are. */
  const capLogits = ({ scratch, at }: Job, tile: Tile, cap: number | undefined) => {
    if (cap === undefined) return
    const count = at.probes * at.rows * tile.rows
    const params = { count, cap }
    commands.run(softCap, { x: scratch.logits }, params, commands.flat(Math.ceil(count / 256)))
  }
  return {
    async project(x, addend, at) {
      const { scratch } = runtime.reserved()
      const rows = memories.matrix(x, at.probes * at.rows)
      products.addends.project(scratch, rows, addend, at)
    },
    async linear(x, slot, bias, y, at, { relu = false, addend } = {}) {
      const job = takeJob(runtime, x, slot, at, (weights) => checkLinear(weights, relu))
      const rows = memories.matrix(y, at.probes * at.rows)
      const { cols } = rows
      checkColumns(y, job)
      const b = bias && memories.plain(bias, at.probes, cols).buffer
      const target = (tile: Tile) => ({
        y: rows,
        width: cols,
        col0: tile.row0,
        bias: b,
        relu,
        addend,
      })
      Array.from(products.tiles(job, target))
      markUsed(runtime, slot)
    },
    async crossEntropy(x, slot, targets, state, at, { addend, cap } = {}) {
      const job = takeJob(runtime, x, slot, at, checkHead)
      const rows = at.probes * at.rows
      const carried = memories.plain(state, rows).buffer
      const n = state.cols - 2
      if (targets.length !== rows * n) {
        throw new RangeError(`${targets.length} targets were given for ${rows} rows of ${n}`)
      }
      const { logits } = job.scratch
      const buffers = { logits, targets: job.scratch.indices(targets), state: carried }
      for (const tile of products.tiles(job, intoLogits(job, addend))) {
        capLogits(job, tile, cap)
        const params = { rows, cols: tile.rows, first: tile.row0, n }
        commands.run(crossEntropy, buffers, params, commands.flat(rows))
      }
      markUsed(runtime, slot)
    },
    async logits(x, slot, at, sink, { addend, cap } = {}) {
      const job = takeJob(runtime, x, slot, at, checkHead)
      for (const tile of products.tiles(job, intoLogits(job, addend))) {
        capLogits(job, tile, cap)
        markUsed(runtime, slot)
        const bytes = 4 * at.probes * at.rows * tile.rows
        sink(tile, new Float32Array(await readback.read(job.scratch.logits, 0, bytes)))
      }
    },
  }
}

/** The committed slab of `slot`, used once: a commit makes it usable again. */
function takeJob(
  runtime: Runtime,
  x: Tensor,
  slot: Slot,
  at: Rows,
  check: (weights: Weights) => void,
): Job {
  const { scratch } = runtime.reserved()
  const state = runtime.memories.state(slot)
  const { weights } = state
  if (!weights) throw new Error(`slot "${slot.label}" is used without a commit before`)
  check(weights)
  const depth = weights.transposed ? x.cols : weights.cols
  const rows = runtime.memories.matrix(x, at.probes * at.rows, depth)
  state.weights = undefined
  return { scratch, raw: state.allocation.buffer, weights, x: rows, depth, at }
}

/** The slot is read by the work recorded so far; one of the ring is wanted back soon. */
function markUsed({ memories, commands }: Runtime, slot: Slot) {
  const state = memories.state(slot)
  state.lastUse = commands.serial
  if (state.allocation.category === 'slots') commands.flush()
}

/** Products go to the logits scratch, one tile at a time. */
function intoLogits({ scratch, at }: Job, addend: Addend | undefined) {
  return (tile: Tile): Target => {
    if (4 * at.probes * at.rows * tile.rows > scratch.logits.size) {
      throw new RangeError(
        `logits of ${at.probes} x ${at.rows} rows x ${tile.rows} columns exceed what was reserved`,
      )
    }
    const y = { buffer: scratch.logits, type: 'f32' } as const
    return { y, width: tile.rows, col0: 0, bias: null, relu: false, addend }
  }
}

function checkColumns(y: Tensor, { weights }: Job) {
  const last = weights.transposed ? { row0: 0, rows: weights.cols } : weights.tiles.at(-1)
  if (last && last.row0 + last.rows > y.cols) {
    throw new RangeError(
      `${weights.name}: the slab ends at row ${last.row0 + last.rows}, ` +
        `"${y.label}" has ${y.cols} columns`,
    )
  }
}
