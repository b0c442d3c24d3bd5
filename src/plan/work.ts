// The work of a step from its plan: what predict.ts needs to know of model, method and run. Pure.
// What that takes in bytes and milliseconds is predict.ts's matter.

import type { Model } from '../../models/model.ts'
import type { Plan, Slab } from '../../scheduler/plan.ts'
import type { Config } from '../config/options.ts'
import type { Split } from '../engine/split.ts'
import type { Method, MethodOptions } from '../methods/method.ts'
import { trafficOf, type StepWork, type Traffic } from './predict.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

interface WorkInput {
  readonly model: Model
  /** Of one pass. */
  readonly plan: Plan
  readonly split: Split
  readonly method: Method
  readonly methodOptions: MethodOptions
  readonly probes: number
  /** Whether the run may fold its updates. */
  readonly folds: boolean
  readonly dtype: DType
  readonly config: Pick<Config, 'batchSize' | 'maxLength' | 'steps' | 'window' | 'replayWindow'>
}

export interface FullWork extends StepWork {
  /** Of all matrices in their files. */
  readonly weightBytes: number
  /** Read by a step once updates are folded. */
  readonly foldedBytes: number
}

/** The work of one training step. */
export function stepWork(input: WorkInput): FullWork {
  const { model, plan, split, method, methodOptions, probes, folds, dtype, config } = input
  const { steps, window, replayWindow } = config
  const dense = method.addend === null
  const trains = ({ name }: { name: string }) => methodOptions.selection.trains(name)
  const foldEvery = !folds
    ? Infinity
    : dense
      ? replayWindow
      : window * method.foldWindows(methodOptions)
  const trained = elements(model.matrices.filter(trains))
  const all = elements(model.matrices)
  const parted = dense ? trained : 0

  const base = bytesOf(plan, ({ rows, cols }) => rows * cols * DTYPE_BYTES[dtype])
  const folded = bytesOf(plan, ({ bytes }) => bytes)
  const pick = (kind: 'streamed' | 'resident') => ({
    baseBytes: base[kind],
    foldedBytes: folded[kind],
  })
  const traffic: Traffic = trafficOf({
    steps,
    foldEvery,
    passes: split.passes,
    streamed: pick('streamed'),
    resident: pick('resident'),
  })
  const owed = Math.max(0, Math.min(steps, foldEvery) - 1) / 2
  return {
    probes,
    passes: split.passes,
    textParts: split.parts.length,
    batch: config.batchSize,
    rowsPerText: config.maxLength - 1,
    layers: model.layers,
    hidden: model.hidden,
    vocabSize: model.vocabSize,
    partedElements: parted,
    sharedElements: all - parted,
    ready: dtype === 'F32',
    terms: dense ? owed * methodOptions.directions : 0,
    addend: method.addend === null ? null : { kind: method.addend, macs: addendMacs(input) },
    // Factored updates are folded so seldom that they cost nothing.
    foldElements: dense && foldEvery < steps ? trained / foldEvery : 0,
    foldTerms: dense ? replayWindow * methodOptions.directions : 0,
    traffic,
    slabBytes: plan.slots > 0 ? plan.slotBytes : 0,
    weightBytes: base.streamed + base.resident,
    foldedBytes: split.passes * (foldEvery < Infinity ? folded.streamed : base.streamed),
  }
}

const elements = (list: readonly { rows: number; cols: number }[]) =>
  list.reduce((sum, m) => sum + m.rows * m.cols, 0)

function bytesOf(plan: Plan, size: (slab: Slab) => number) {
  const sum = (resident: boolean) =>
    plan.slabs.reduce((total, slab) => total + (slab.resident === resident ? size(slab) : 0), 0)
  return { streamed: sum(false), resident: sum(true) }
}

/** Multiply-adds of all addends for one row, with as many windows as a run has on average. */
function addendMacs({ model, method, methodOptions, probes, config }: WorkInput): number {
  const most = method.foldWindows(methodOptions)
  const windows = (Math.min(Math.ceil(config.steps / config.window), most) + 1) / 2
  const lowRank = method.addend === 'low-rank'
  const fresh = lowRank ? methodOptions.directions : 0
  const share = most === Infinity ? 1 : (windows + fresh) / (most + fresh)
  return model.matrices.reduce((sum, m) => {
    const { projectionCols } = method.demand(methodOptions, [m], probes)
    // The factors of a Kronecker product are nearly square.
    const perColumn = lowRank ? m.rows + m.cols : Math.sqrt(m.rows) + Math.sqrt(m.cols)
    return sum + share * projectionCols * perColumn
  }, 0)
}
