// Runs a model's program (models/model.ts) on the device: matrices slab by slab from the stream, in the order that
// the plan has them. Probes share their rows until the first perturbed tensor; from the last attention on there are
// only the rows whose logits are wanted. What opens the stream is forward.ts.

import type { Matrix, ModelInput, Rows as ModelRows } from '../../models/model.ts'
import { ropeTable } from '../../models/rope.ts'
import type { StreamedSlab } from '../../scheduler/stream.ts'
import type { Addend, Device, Rows, Tensor } from '../device/device.ts'
import { upTo, type QueryGroups } from '../device/packed.ts'
import type { Probes } from '../methods/method.ts'
import { createAttend, ofProbes, type Cached } from './attention.ts'
import { gather } from './embedding.ts'
import type { Engine } from './engine.ts'
import type { Wanted } from './head.ts'
import type { WorkingSet } from './working-set.ts'

/** What a pass is to do. */
export interface PassInput {
  /** R rows. */
  readonly input: ModelInput
  readonly sees: QueryGroups
  readonly wanted: Wanted
  readonly cached?: Cached | undefined
}

/** With what it is done. */
export interface Pass extends PassInput {
  readonly probes: Probes | null
  readonly next: () => Promise<StreamedSlab>
}

/** Runs the model's program: every operation is a call of the device. */
export async function runProgram(engine: Engine, set: WorkingSet, pass: Pass): Promise<void> {
  const { device, model, vectors } = engine
  const { probes, wanted, input } = pass
  const P = probes?.list.length ?? 1
  const R = input.ids.length
  /** Probes told apart so far: one until the first perturbed tensor; R rows until the last attention. */
  let at: Rows = { probes: perturbedBefore(engine, probes) ? P : 1, rows: R }
  const of = (rows: ModelRows): Tensor => set.buffers[rows.buffer]!
  const vector = (name: string | null) => (name === null ? null : vectors.tensor(name))
  const slabs = slabsOf(engine, pass, () => at)
  const attend = createAttend(engine, set, pass, () => at)
  model.ropes?.forEach((rope, i) => device.write(set.ropes[i]!, ropeTable(rope, input)))

  for (const op of model.ops) {
    switch (op.kind) {
      case 'gather': {
        const indices = input[op.by].map((index) => index + op.offset)
        await gather(engine, probes, at.probes, op.table, indices, op.scale, of(op.y))
        break
      }
      case 'linear': {
        const [x, y, bias, { relu }] = [of(op.x), of(op.y), vector(op.bias), op]
        await slabs(op.matrix, x, (slot, addend) =>
          device.linear(x, slot, bias, y, at, { relu, ...addend }),
        )
        break
      }
      case 'layerNorm':
        await device.layerNorm(of(op.x), vector(op.scale), vector(op.bias), op.eps, of(op.y), at)
        break
      case 'rmsNorm': {
        const [scale, { eps, offset }] = [vectors.tensor(op.scale)!, op]
        await device.rmsNorm(of(op.x), scale, eps, of(op.y), at, { offset })
        break
      }
      case 'rope':
        await device.rope(of(op.x), set.ropes[op.rope]!, model.attention.headSize, at)
        break
      case 'activation':
        await device.activation(op.f, of(op.x), at)
        break
      case 'gate':
        await device.gate(op.f, of(op.x), of(op.y), at)
        break
      case 'add':
        await device.add(of(op.x), of(op.y), at)
        break
      case 'columns':
        await device.copyColumns(of(op.x), op.first, of(op.y), at)
        break
      case 'attention':
        await attend(op, of(op.q), of(op.k), of(op.v), of(op.y))
        if (op.layer === model.layers - 1) at = { ...at, rows: wanted.rows.length }
        break
      case 'wanted':
        await device.gatherRows(of(op.x), ofProbes(at.probes, R, wanted.rows), of(op.y))
        break
      case 'block':
        if (at.probes === P || !partsIn(engine, probes, op.block)) break
        await repeatRows(device, of(op.h), of(op.spare), at.rows, P)
        at = { ...at, probes: P }
        break
      case 'head': {
        const cap = op.cap === undefined ? {} : { cap: op.cap }
        await head(engine, set, pass, at, (use) => slabs(op.matrix, of(op.x), use), of(op.x), cap)
      }
    }
  }
}

/** What a product is made with: its slot, and the addend if its matrix has one. */
type UseSlab = (slot: StreamedSlab['slot'], addend: { readonly addend?: Addend }) => Promise<void>

/** Hands a matrix's slabs to `use`, one after another, x taken through its addend before. */
function slabsOf({ device, state }: Engine, { next, probes }: Pass, now: () => Rows) {
  return async ({ name, rows }: Matrix, x: Tensor, use: UseSlab) => {
    const addend = state.addend(name, probes) ?? undefined
    if (addend) await device.project(x, addend, now())
    for (let row = 0; row < rows;) {
      const { slab, slot } = await next()
      if (slab.name !== name || slab.row0 !== row) {
        throw new Error(`${name} row ${row} was asked for out of the model's own order`)
      }
      await use(slot, addend ? { addend } : {})
      row += slab.rows
    }
  }
}

/** Loss or logits of x, as the pass wants them. */
async function head(
  { device, counters }: Engine,
  { lossState }: WorkingSet,
  { wanted }: Pass,
  at: Rows,
  slabs: (use: UseSlab) => Promise<void>,
  x: Tensor,
  cap: { readonly cap?: number },
): Promise<void> {
  if (wanted.kind === 'logits') {
    const sink: typeof wanted.sink = (tile, data) => {
      counters.downloadBytes += data.byteLength
      wanted.sink(tile, data)
    }
    await slabs((slot, options) => device.logits(x, slot, at, sink, { ...options, ...cap }))
    return
  }
  device.write(lossState, emptyState(at.probes * at.rows, lossState.cols))
  const targets = targetsOf(wanted, at.probes, lossState.cols - 2)
  await slabs((slot, options) =>
    device.crossEntropy(x, slot, targets, lossState, at, { ...options, ...cap }),
  )
}

/** Rows [0, rows) of h again for each further probe, by way of `spare`. */
async function repeatRows(device: Device, h: Tensor, spare: Tensor, rows: number, P: number) {
  await device.gatherRows(h, ofProbes(P, 0, upTo(rows)), spare)
  await device.gatherRows(spare, upTo(P * rows), h)
}

/** (max, sum, logits of targets) of rows that have seen no logit yet. */
function emptyState(rows: number, cols: number): Float32Array {
  const state = new Float32Array(rows * cols)
  for (let i = 0; i < state.length; i += cols) state[i] = -Infinity
  return state
}

/** Targets of the rows of all probes, `perRow` of each: the first again where there are fewer. */
function targetsOf(wanted: Extract<Wanted, { kind: 'loss' }>, P: number, perRow: number) {
  const M = wanted.rows.length
  const all = new Uint32Array(P * M * perRow)
  for (let i = 0; i < all.length; i++) {
    const k = i % perRow
    all[i] =
      wanted.targets[(Math.floor(i / perRow) % M) * wanted.perRow + (k < wanted.perRow ? k : 0)]!
  }
  return all
}

/** lse - logit of each target [P][M*perRow], in f64, from the state (max, sum, target logits) of each row. */
export async function readLosses(
  { device }: Engine,
  { lossState }: WorkingSet,
  wanted: Extract<Wanted, { kind: 'loss' }>,
  P: number,
): Promise<Float64Array[]> {
  const M = wanted.rows.length
  const { perRow } = wanted
  const state = await device.read(lossState, 0, P * M)
  return Array.from({ length: P }, (_, p) =>
    Float64Array.from({ length: M * perRow }, (_, i) => {
      const row = (p * M + Math.floor(i / perRow)) * lossState.cols
      return state[row]! + Math.log(state[row + 1]!) - state[row + 2 + (i % perRow)]!
    }),
  )
}

/** Whether this step's probes see different weights before the first block. */
function perturbedBefore({ model, state }: Engine, probes: Probes | null): boolean {
  if (!probes) return true
  const first = [...model.tables, ...model.matrices.filter((m) => m.block < 0)]
  return first.some(({ name }) => state.isPerturbed(probes.step, name))
}

/** Whether they part in front of a block: they see different weights in it, or it is behind the last. */
function partsIn({ model, state, options }: Engine, probes: Probes | null, block: number) {
  if (block === model.layers) return true
  const { selection } = options.methodOptions
  const own = (tensor: { readonly block: number }) => tensor.block === block
  return (
    model.matrices.some((m) => own(m) && state.isPerturbed(probes!.step, m.name)) ||
    model.vectors.some((v) => own(v) && selection.active(probes!.step, v.name))
  )
}
