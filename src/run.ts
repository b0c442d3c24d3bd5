// One forward pass: joins the stream of weights, the method's recipes and the model's straight-line
// code. Everything a model calls on its `Run` ends here; the step (step.ts) sees only losses.

import type { ModelInput, Run } from '../models/model.ts'
import { stream, type StreamedSlab } from '../scheduler/stream.ts'
import type { Slab } from '../scheduler/plan.ts'
import type { Rows, Tensor, Tile } from './device/device.ts'
import type { Engine, WorkingSet } from './engine.ts'
import { recipe, terms } from './methods/perturbation.ts'
import { DTYPE_BYTES } from './weights/types.ts'

/** The probes of a step; null evaluates the weights as they are. */
export interface Probe {
  readonly step: number
  /** One scale of the raw noise per probe. */
  readonly scales: readonly number[]
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
 * Runs the model on a batch under P probes. For 'loss' returns the cross-entropy of each wanted row,
 * in nats, per probe [P][M], as f64; for 'logits' an empty list.
 */
export async function forward(
  engine: Engine,
  input: ModelInput,
  probe: Probe | null,
  wanted: Wanted,
): Promise<Float64Array[]> {
  const { device, model } = engine
  // A run resumed from its journal may owe more than the replay window that recipes are planned for.
  await foldOwed(engine, engine.options.replayWindow + 1)
  const probes = probe?.scales.length ?? 1
  const [batch, tokens] = [input.inputIds.length, input.inputIds[0]!.length]
  const set = engine.workingSet({ probes, batch, tokens })
  const weights = recipes(engine, probe)
  const keyMask = set.keyMask(batch, tokens)
  device.write(keyMask, Float32Array.from(input.attentionMask.flat()))
  engine.vectors.upload(device, weights.ofVector)

  const source = {
    describe: (slab: Slab) => {
      const dtype = engine.store.dtype(slab.name)
      return {
        bytes: slab.rows * slab.cols * DTYPE_BYTES[dtype],
        version: engine.store.version,
        weights: {
          name: slab.name,
          dtype,
          cols: slab.cols,
          tiles: slab.tiles,
          recipe: weights.ofMatrix(slab.name),
        },
      }
    },
    read: (slab: Slab, into: Uint8Array) => engine.store.read(slab.name, slab.row0, into),
  }
  const slabs = stream(set.plan, set.slots, device, source, engine.counters)
  try {
    const at = { probes, rows: batch * tokens }
    const run = createRun(engine, set, slabs, { at, batch, tokens, keyMask, weights, wanted })
    await model.forward(run, input)
    const extra = await slabs.next()
    if (!extra.done) throw new Error(`${extra.value.slab.name} was streamed but not used`)
    return wanted.kind === 'loss' ? await readLosses(set, device, probes, wanted.rows.length) : []
  } finally {
    await slabs.return()
  }
}

/** Starts folding all owed updates into the overlay once there are at least `window` of them. */
export async function foldOwed(engine: Engine, window: number): Promise<void> {
  const owed = engine.updates.slice(engine.store.folded)
  if (owed.length < window) return
  const { seed } = engine.options
  await engine.store.fold(engine.updates.length, (name) => terms(seed, name, owed))
}

/** Recipes by tensor for this pass: matrices owe what is not folded, vectors owe nothing. */
function recipes(engine: Engine, probe: Probe | null) {
  const { seed } = engine.options
  const owed = engine.updates.slice(engine.store.folded)
  return {
    ofMatrix: (name: string) => recipe(seed, name, owed, probe),
    ofVector: (name: string) => recipe(seed, name, [], probe),
  }
}

interface Pass {
  readonly at: Rows
  readonly batch: number
  readonly tokens: number
  readonly keyMask: Tensor
  readonly weights: ReturnType<typeof recipes>
  readonly wanted: Wanted
}

function createRun(
  engine: Engine,
  set: WorkingSet,
  slabs: AsyncGenerator<StreamedSlab, void, void>,
  pass: Pass,
): Run {
  const { device, model, vectors } = engine
  const { at, batch, tokens, wanted } = pass
  /** Rows that linear works on: all of them until selectRows. */
  let rows: Rows = at

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

  return {
    device,
    at,
    shape: { probes: at.probes, batch, tokens, heads: model.heads },
    keyMask: pass.keyMask,
    vector: (name) => vectors.tensor(name),
    buffer(label) {
      const buffer = set.buffers.get(label)
      if (!buffer) throw new Error(`the model names no activation buffer "${label}"`)
      return buffer
    },
    linear: (x, name, y, relu) =>
      slabsOf(`${name}.weight`, ({ slot }) =>
        device.linear(x, slot, vectors.tensor(`${name}.bias`), y, rows, relu),
      ),
    gather: (name, indices, y) => gather(engine, pass, name, indices, y),
    async selectRows(x, y) {
      const { rows: chosen } = wanted
      const all = Uint32Array.from({ length: at.probes * chosen.length }, (_, i) => {
        const p = Math.floor(i / chosen.length)
        return p * at.rows + chosen[i % chosen.length]!
      })
      await device.gatherRows(x, all, y)
      return (rows = { probes: at.probes, rows: chosen.length })
    },
    async head(x, name) {
      if (wanted.kind === 'logits') {
        await slabsOf(name, ({ slot }) => device.logits(x, slot, rows, wanted.sink))
        return
      }
      const M = at.probes * wanted.rows.length
      const start = new Float32Array(M * 3)
      for (let i = 0; i < M; i++) start[i * 3] = -Infinity
      device.write(set.lossState, start)
      const targets = new Uint32Array(M)
      for (let p = 0; p < at.probes; p++) targets.set(wanted.targets, p * wanted.targets.length)
      await slabsOf(name, ({ slot }) => device.crossEntropy(x, slot, targets, set.lossState, rows))
    },
  }
}

/** Reads each distinct row of the table once, makes one version per probe, writes y [R, cols]. */
async function gather(engine: Engine, pass: Pass, name: string, indices: Uint32Array, y: Tensor) {
  const { store, kernel, device } = engine
  const { cols } = y
  const { probes } = pass.at
  const dtype = store.dtype(name)
  const recipe = pass.weights.ofMatrix(name)
  const distinct = [...new Set(indices)]
  const raw = new Uint8Array(distinct.length * cols * DTYPE_BYTES[dtype])
  const rowBytes = cols * DTYPE_BYTES[dtype]
  await Promise.all(
    distinct.map((row, i) => store.read(name, row, raw.subarray(i * rowBytes, (i + 1) * rowBytes))),
  )
  const versions = distinct.map((row, i) => {
    const out = Array.from({ length: probes }, () => new Float32Array(cols))
    const bytes = raw.subarray(i * rowBytes, (i + 1) * rowBytes)
    kernel.apply(bytes, dtype, row * cols, recipe, out)
    return out
  })
  const slotOf = new Map(distinct.map((row, i) => [row, i]))
  const all = new Float32Array(probes * indices.length * cols)
  for (let p = 0; p < probes; p++) {
    indices.forEach((row, i) => {
      all.set(versions[slotOf.get(row)!]![p]!, (p * indices.length + i) * cols)
    })
  }
  device.write(y, all)
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
