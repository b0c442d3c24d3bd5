// What models compute with (`Run` of models/model.ts), on the device: matrices slab by slab from the stream,
// in the order that the plan has them. Probes share their rows until the first perturbed tensor. How a pass
// begins and ends is pass.ts, what opens the stream forward.ts.

import type { ModelInput, Run } from '../../models/model.ts'
import type { NextSlab } from '../../scheduler/interleave.ts'
import type { StreamedSlab } from '../../scheduler/stream.ts'
import type { Addend, Rows, Tensor, Tile } from '../device/device.ts'
import type { Probes } from '../methods/method.ts'
import { blockOf } from '../methods/selection.ts'
import { createAttend, type Cached } from './attention.ts'
import { gather } from './embedding.ts'
import type { Engine } from './engine.ts'
import type { Lane } from './working-set.ts'

/** What the head is asked for: rows are b*T + t, the positions whose next token is meant. */
export type Wanted =
  | { readonly kind: 'loss'; readonly rows: Uint32Array; readonly targets: Uint32Array }
  | {
      readonly kind: 'logits'
      readonly rows: Uint32Array
      /** data is [P*M, tile.rows]: columns tile.row0.. of the vocabulary. */
      readonly sink: (tile: Tile, data: Float32Array) => void
    }

/** Rows whose losses are wanted, b*T + t, in rising order. */
export type LossWanted = Extract<Wanted, { kind: 'loss' }>

/** What one pass of a sweep is to do. */
export interface PassInput {
  readonly input: ModelInput
  readonly wanted: Wanted
  readonly cached?: Cached | undefined
  /** Whose activations and cache it uses, of those of the sweep's shape; its own number if left out. */
  readonly lane?: number
}

/** One batch's pass: where it gets its slabs, and through which probes it sees them. */
export interface OnePass extends PassInput {
  readonly probes: Probes | null
  readonly next: NextSlab
  /** Whether no other pass runs between two slabs. */
  readonly alone: boolean
}

/** With what the pass was begun with. */
export interface Pass extends OnePass {
  readonly at: Rows
  readonly batch: number
  readonly tokens: number
  readonly keyMask: Tensor
}

export function createRun(engine: Engine, lane: Lane, pass: Pass): Run {
  const { device, model, vectors, state } = engine
  const { batch, tokens, probes, wanted } = pass
  const shape = () => ({ probes: at.probes, batch, tokens, heads: model.heads })
  /** Probes told apart so far: one until the first perturbed tensor. */
  let at: Rows = perturbedBefore(engine, probes) ? pass.at : { ...pass.at, probes: 1 }
  /** Rows that linear works on: all of them until selectRows. */
  let chosen: Rows | null = null

  /**
   * Hands the matrix's slabs to `use`, one after another, with its addend if it has one, x's way
   * through the right factor done: once, unless other passes put theirs in its place meanwhile.
   */
  const slabsOf = async (
    name: string,
    x: Tensor,
    use: (slot: StreamedSlab['slot'], addend?: Addend) => Promise<void>,
  ) => {
    const matrix = model.matrices.find((m) => m.name === name)
    const addend = state.addend(name, probes) ?? undefined
    if (addend && pass.alone) await device.project(x, addend, chosen ?? at)
    for (let row = 0; row < (matrix?.rows ?? 1);) {
      const { slab, slot } = await pass.next()
      if (slab.name !== name || slab.row0 !== row) {
        throw new Error(`${name} row ${row} was asked for out of the model's own order`)
      }
      if (addend && !pass.alone) await device.project(x, addend, chosen ?? at)
      await use(slot, addend)
      row += slab.rows
    }
  }

  return {
    device,
    get at() {
      return at
    },
    vector: (name) => vectors.tensor(name),
    attend: createAttend(device, lane, pass, shape),
    buffer(label) {
      const buffer = lane.buffers.get(label)
      if (!buffer) throw new Error(`the model names no activation buffer "${label}"`)
      return buffer
    },
    async linear(x, name, y, relu = false) {
      const bias = vectors.tensor(`${name}.bias`)
      await slabsOf(`${name}.weight`, x, (slot, addend) =>
        device.linear(x, slot, bias, y, chosen ?? at, { relu, ...(addend && { addend }) }),
      )
    },
    gather: (name, indices, y) => gather(engine, probes, at.probes, name, indices, y),
    async enterBlock(block, h, spare) {
      if (at.probes === pass.at.probes) return [h, spare]
      if (block < model.layers && !perturbedIn(engine, probes, block)) return [h, spare]
      const { probes: P, rows } = pass.at
      const copies = Uint32Array.from({ length: P * rows }, (_, i) => i % rows)
      await device.gatherRows(h, copies, spare)
      at = pass.at
      return [spare, h]
    },
    async selectRows(x, y) {
      const M = wanted.rows.length
      const all = Uint32Array.from({ length: at.probes * M }, (_, i) => {
        return Math.floor(i / M) * at.rows + wanted.rows[i % M]!
      })
      await device.gatherRows(x, all, y)
      return (chosen = { probes: at.probes, rows: M })
    },
    async head(x, name) {
      const rows = chosen ?? at
      if (wanted.kind === 'logits') {
        const sink: typeof wanted.sink = (tile, data) => {
          engine.counters.downloadBytes += data.byteLength
          wanted.sink(tile, data)
        }
        await slabsOf(name, x, (slot, addend) => device.logits(x, slot, rows, sink, addend))
        return
      }
      const M = at.probes * wanted.rows.length
      const start = new Float32Array(M * 3)
      for (let i = 0; i < M; i++) start[i * 3] = -Infinity
      device.write(lane.lossState, start)
      const targets = new Uint32Array(M)
      for (let p = 0; p < at.probes; p++) targets.set(wanted.targets, p * wanted.targets.length)
      await slabsOf(name, x, (slot, addend) =>
        device.crossEntropy(x, slot, targets, lane.lossState, rows, addend),
      )
    },
  }
}

/** Whether this step's probes see different weights before the first block. */
function perturbedBefore({ model, state }: Engine, probes: Probes | null): boolean {
  if (!probes) return true
  const first = [...model.tables, ...model.matrices.filter((m) => m.block < 0)]
  return first.some(({ name }) => state.isPerturbed(probes.step, name))
}

/** Whether they do within a block. */
function perturbedIn({ model, state, options }: Engine, probes: Probes | null, block: number) {
  const { selection } = options.methodOptions
  const own = ({ name }: { name: string }) => blockOf(name) === block
  return (
    model.matrices.some((m) => own(m) && state.isPerturbed(probes!.step, m.name)) ||
    model.vectors.some((v) => own(v) && selection.active(probes!.step, v.name))
  )
}
