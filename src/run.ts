// One forward pass: joins the stream of weights, the method's recipes and the model's straight-line
// code. Everything a model calls on its `Run` ends here; the step (step.ts) sees only losses.

import type { ModelInput, Run } from '../models/model.ts'
import { stream, type StreamedSlab } from '../scheduler/stream.ts'
import type { Slab } from '../scheduler/plan.ts'
import type { Rows, Tensor, Tile } from './device/device.ts'
import type { Engine, WorkingSet } from './engine.ts'
import { blockOf } from './methods/selection.ts'
import type { Probe } from './methods/method.ts'
import { gather } from './gather.ts'
import { DTYPE_BYTES } from './weights/types.ts'

/**
 * A pass over tokens whose predecessors' keys and values are on the device: first all tokens of the
 * prompts at once (past 0), then one token of each sequence at a time. No probes.
 */
export interface Cached {
  /** Positions to make room for, in all. */
  readonly capacity: number
  /** Positions before the tokens of this pass. */
  readonly past: number
  /** 1 token, 0 padding, by sequence, for all positions so far. */
  readonly mask: readonly (readonly number[])[]
}

/** The mask over a whole cache: what lies beyond this pass's token is not there yet. */
function cacheMask({ mask }: Cached, capacity: number): Float32Array {
  const all = new Float32Array(mask.length * capacity)
  mask.forEach((row, b) => all.set(row, b * capacity))
  return all
}

/** What the head is asked for: rows are b*T + t, the positions whose next token is meant. */
export type Wanted =
  | { readonly kind: 'loss'; readonly rows: Uint32Array; readonly targets: Uint32Array }
  | {
      readonly kind: 'logits'
      readonly rows: Uint32Array
      /** data is [P*M, tile.rows]: columns tile.row0.. of the vocabulary. */
      readonly sink: (tile: Tile, data: Float32Array) => void
    }

/**
 * Runs the model on a batch under P probes (null: the weights as they are). For 'loss' returns the cross-entropy of each wanted row,
 * in nats, per probe [P][M], as f64; for 'logits' an empty list.
 */
export async function forward(
  engine: Engine,
  input: ModelInput,
  probe: Probe | null,
  wanted: Wanted,
  cached?: Cached,
): Promise<Float64Array[]> {
  const { device, model } = engine
  // A run resumed from its journal may owe more than the replay window that recipes are planned for.
  await foldOverdue(engine, 1)
  const probes = probe?.probes.length ?? 1
  const [batch, tokens] = [input.inputIds.length, input.inputIds[0]!.length]
  const keys = cached && { keys: cached.capacity }
  const set = engine.workingSet({ probes, batch, tokens, ...keys })
  const keyMask = set.keyMask(batch, tokens)
  device.write(keyMask, Float32Array.from(input.attentionMask.flat()))
  if (cached && cached.past > 0)
    device.write(set.cache!.mask, cacheMask(cached, set.cache!.capacity))
  engine.vectors.upload(device, probe)

  const transposed = new Set(model.matrices.filter((m) => m.transposed).map((m) => m.name))
  const source = {
    describe: (slab: Slab) => {
      const dtype = engine.store.dtype(slab.name)
      return {
        bytes: slab.rows * slab.cols * DTYPE_BYTES[dtype],
        version: engine.store.version(slab.name),
        weights: {
          name: slab.name,
          dtype,
          cols: slab.cols,
          tiles: slab.tiles,
          recipe: engine.state.recipe(slab.name, probe),
          transposed: transposed.has(slab.name),
        },
      }
    },
    read: (slab: Slab, into: Uint8Array) => engine.store.read(slab.name, slab.row0, into),
  }
  const slabs = stream(set.plan, set.slots, device, source, engine.counters)
  try {
    const at = { probes, rows: batch * tokens }
    const run = createRun(engine, set, slabs, { at, batch, tokens, keyMask, probe, wanted, cached })
    await model.forward(run, input)
    const extra = await slabs.next()
    if (!extra.done) throw new Error(`${extra.value.slab.name} was streamed but not used`)
    return wanted.kind === 'loss' ? await readLosses(set, device, probes, wanted.rows.length) : []
  } finally {
    await slabs.return()
  }
}

/** Starts folding what dense methods owe beyond the replay window and `spare` updates more. */
export async function foldOverdue(engine: Engine, spare: number): Promise<void> {
  const fold = engine.state.overdue(spare)
  if (fold) await engine.store.fold(fold)
}

interface Pass {
  readonly at: Rows
  readonly batch: number
  readonly tokens: number
  readonly keyMask: Tensor
  readonly probe: Probe | null
  readonly cached: Cached | undefined
  readonly wanted: Wanted
}

function createRun(
  engine: Engine,
  set: WorkingSet,
  slabs: AsyncGenerator<StreamedSlab, void, void>,
  pass: Pass,
): Run {
  const { device, model, vectors, state } = engine
  const { batch, tokens, probe, wanted } = pass
  /** Probes told apart so far: one until the first perturbed tensor. */
  let at: Rows = perturbedBefore(engine, probe) ? pass.at : { ...pass.at, probes: 1 }
  /** Rows that linear works on: all of them until selectRows. */
  let chosen: Rows | null = null

  /** Hands the matrix's slabs to `use`, one after another. */
  const slabsOf = async (name: string, use: (slab: StreamedSlab) => Promise<void>) => {
    const matrix = model.matrices.find((m) => m.name === name)
    for (let row = 0; row < (matrix?.rows ?? 1);) {
      const next = await slabs.next()
      if (next.done || next.value.slab.name !== name || next.value.slab.row0 !== row) {
        throw new Error(`${name} row ${row} was asked for out of the model's own order`)
      }
      await use(next.value)
      row += next.value.slab.rows
    }
  }
  /** The matrix's addend, x's way through its right factor done; nothing if it has none. */
  const project = async (x: Tensor, name: string) => {
    const addend = state.addend(name, probe)
    if (!addend) return {}
    await device.project(x, addend, chosen ?? at)
    return { addend }
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
      const cache = cached && set.cache
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
      const buffer = set.buffers.get(label)
      if (!buffer) throw new Error(`the model names no activation buffer "${label}"`)
      return buffer
    },
    async linear(x, name, y, relu = false) {
      const options = { relu, ...(await project(x, `${name}.weight`)) }
      const bias = vectors.tensor(`${name}.bias`)
      await slabsOf(`${name}.weight`, ({ slot }) =>
        device.linear(x, slot, bias, y, chosen ?? at, options),
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
      const { addend } = await project(x, name)
      const rows = chosen ?? at
      if (wanted.kind === 'logits') {
        await slabsOf(name, ({ slot }) => device.logits(x, slot, rows, wanted.sink, addend))
        return
      }
      const M = at.probes * wanted.rows.length
      const start = new Float32Array(M * 3)
      for (let i = 0; i < M; i++) start[i * 3] = -Infinity
      device.write(set.lossState, start)
      const targets = new Uint32Array(M)
      for (let p = 0; p < at.probes; p++) targets.set(wanted.targets, p * wanted.targets.length)
      await slabsOf(name, ({ slot }) =>
        device.crossEntropy(x, slot, targets, set.lossState, rows, addend),
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
async function readLosses(set: WorkingSet, device: Engine['device'], probes: number, M: number) {
  const state = await device.read(set.lossState, 0, probes * M)
  return Array.from({ length: probes }, (_, p) =>
    Float64Array.from({ length: M }, (_, i) => {
      const at = (p * M + i) * 3
      return state[at]! + Math.log(state[at + 1]!) - state[at + 2]!
    }),
  )
}
