// One batch's pass through the model: the hands that models work with (`Run`), over slabs that come in
// turn from the stream. What opens the stream, and how many passes share it, is run.ts.

import type { Run } from '../models/model.ts'
import type { StreamedSlab } from '../scheduler/stream.ts'
import type { NextSlab } from '../scheduler/turns.ts'
import type { Addend, Rows, Tensor } from './device/device.ts'
import type { Engine } from './engine.ts'
import { gather } from './gather.ts'
import type { Probe } from './methods/method.ts'
import { blockOf } from './methods/selection.ts'
import type { Cached, PassInput } from './run.ts'
import type { Lane } from './working-set.ts'

/** The mask over a whole cache: what lies beyond this pass's token is not there yet. */
function cacheMask({ mask }: Cached, capacity: number): Float32Array {
  const all = new Float32Array(mask.length * capacity)
  mask.forEach((row, b) => all.set(row, b * capacity))
  return all
}

/** One batch's pass: where it gets its slabs, and through which probes it sees them. */
export interface OnePass extends PassInput {
  readonly probe: Probe | null
  readonly next: NextSlab
  /** Whether no other pass runs between two slabs. */
  readonly alone: boolean
}

/** Runs the model on one batch; the losses that `forward` returns. */
export async function onePass(engine: Engine, lane: Lane, pass: OnePass): Promise<Float64Array[]> {
  const { device, model } = engine
  const { input, cached, wanted, probe } = pass
  const probes = probe?.probes.length ?? 1
  const [batch, tokens] = [input.inputIds.length, input.inputIds[0]!.length]
  const keyMask = lane.keyMask(batch, tokens)
  device.write(keyMask, Float32Array.from(input.attentionMask.flat()))
  if (cached && cached.past > 0) {
    device.write(lane.cache!.mask, cacheMask(cached, lane.cache!.capacity))
  }
  const at = { probes, rows: batch * tokens }
  await model.forward(createRun(engine, lane, { ...pass, at, batch, tokens, keyMask }), input)
  return wanted.kind === 'loss' ? await readLosses(lane, device, probes, wanted.rows.length) : []
}

interface Pass extends OnePass {
  readonly at: Rows
  readonly batch: number
  readonly tokens: number
  readonly keyMask: Tensor
}

function createRun(engine: Engine, lane: Lane, pass: Pass): Run {
  const { device, model, vectors, state } = engine
  const { batch, tokens, probe, wanted } = pass
  /** Probes told apart so far: one until the first perturbed tensor. */
  let at: Rows = perturbedBefore(engine, probe) ? pass.at : { ...pass.at, probes: 1 }
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
    const addend = state.addend(name, probe) ?? undefined
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
    get shape() {
      return { probes: at.probes, batch, tokens, heads: model.heads }
    },
    keyMask: pass.keyMask,
    vector: (name) => vectors.tensor(name),
    async attend(layer, q, k, v, y) {
      const shape = { probes: at.probes, batch, tokens, heads: model.heads }
      const { cached } = pass
      const cache = cached && lane.cache
      if (!cached || !cache) return device.attention(q, k, v, pass.keyMask, y, shape)
      const { capacity } = cache
      const places = Uint32Array.from({ length: batch * tokens }, (_, i) => {
        return Math.floor(i / tokens) * capacity + cached.past + (i % tokens)
      })
      const [keys, values] = [cache.keys[layer]!, cache.values[layer]!]
      await device.scatterRows(k, places, keys)
      await device.scatterRows(v, places, values)
      // The first tokens see each other only; a later one sees all that the cache's mask shows.
      if (cached.past === 0) return device.attention(q, k, v, pass.keyMask, y, shape)
      await device.attention(q, keys, values, cache.mask, y, { ...shape, keys: capacity })
    },
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
    gather: (name, indices, y) => gather(engine, probe, at.probes, name, indices, y),
    async enterBlock(block, h, spare) {
      if (at.probes === pass.at.probes) return [h, spare]
      if (block < model.layers && !perturbedIn(engine, probe, block)) return [h, spare]
      const { probes, rows } = pass.at
      const copies = Uint32Array.from({ length: probes * rows }, (_, i) => i % rows)
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
        const { sink } = wanted
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
function perturbedBefore({ model, state }: Engine, probe: Probe | null): boolean {
  if (!probe) return true
  const first = [...model.tables, ...model.matrices.filter((m) => m.block < 0)]
  return first.some(({ name }) => state.parts(probe.step, name))
}

/** Whether they do within a block. */
function perturbedIn({ model, state, options }: Engine, probe: Probe | null, block: number) {
  const { selection } = options.methodOptions
  const own = ({ name }: { name: string }) => blockOf(name) === block
  return (
    model.matrices.some((m) => own(m) && state.parts(probe!.step, m.name)) ||
    model.vectors.some((v) => own(v) && selection.active(probe!.step, v.name))
  )
}

/** lse - logit of the target, in f64, from the state (max, sum, target logit) of each row. */
async function readLosses(lane: Lane, device: Engine['device'], probes: number, M: number) {
  const state = await device.read(lane.lossState, 0, probes * M)
  return Array.from({ length: probes }, (_, p) =>
    Float64Array.from({ length: M }, (_, i) => {
      const at = (p * M + i) * 3
      return state[at]! + Math.log(state[at + 1]!) - state[at + 2]!
    }),
  )
}
