// `zo2 plan`: the planner's answer as a table and as the JSON that scripts rely on. Needs config.json
// only; of a hub model the weights are not downloaded. What the time of a step is made of is in
// predict.ts; the machine's rates are the caller's.

import { join } from 'node:path'
import { createModel } from '../../models/index.ts'
import { distinctMatrices, type Model } from '../../models/model.ts'
import type { Plan } from '../../scheduler/plan.ts'
import type { Config } from '../config/options.ts'
import { cutOf, partOf, passesOf, planThatFits, type Cut } from '../engine/cut.ts'
import { planFor, type Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { predictStep, type Rates, type Tier } from './predict.ts'
import { formatSeconds, memoryTable, table, type Reporter } from '../util/console.ts'
import { designOf, memoryModel } from '../engine/open.ts'
import { prefixed, syntheticModel } from '../engine/load.ts'
import { stepWork } from './work.ts'
import { batchesPerSweep } from '../engine/sweep.ts'
import { findTensors, type ModelTensors } from '../engine/tensors.ts'
import { formatBytes } from '../util/units.ts'
import { openCheckpoint } from '../checkpoint/open.ts'
import { readJsonObject } from '../io/read.ts'
import { resolveModel } from '../hub/resolve.ts'
import { overlayBytes } from '../weights/store.ts'
import { fitsPageCache } from '../weights/page-cache.ts'
import { isSynthetic, parseSynthetic } from '../checkpoint/synthetic.ts'
import { DTYPE_BYTES, DTYPES, type DType } from '../util/dtypes.ts'
import type { BatchShape } from '../engine/working-set.ts'

/** As if an evaluation had so many: what a long one does. */
const MANY_BATCHES = 1000

/**
 * Plans one training step with batches of batchSize x maxLength.
 * @throws UserError for a length beyond the model's positions, or a budget that nothing fits into
 */
export async function planReport(source: string, config: Config, report: Reporter) {
  const { model, tensors, dtype, files } = prefixed(await shapes(source, config, report), config)
  const { batchSize: batch, maxLength: tokens } = config
  if (tokens > model.maxPositions) {
    throw new UserError(
      `--max-length ${tokens} exceeds the model's ${model.maxPositions} positions; lower it`,
    )
  }
  const design = designOf({ model }, config, true)
  const memory = await memoryModel(config)
  const { method, methodOptions, estimator, folds } = design
  const probes = estimator.probes(config.eps).length
  const planned: Engine['planFor'] = (shape, limits) => ({
    plan: planFor({ ...design, ...limits }, tensors, shape, memory),
    held: false,
  })
  const exactly = (shape: BatchShape) => planned(shape).plan
  const shape = { probes, batch, tokens }
  const cut = cutOf(exactly, shape)
  const plan = exactly(partOf(shape, cut))
  const trained = distinctMatrices(model).filter(({ name }) => methodOptions.selection.trains(name))
  const demand = method.demand(methodOptions, distinctMatrices(model), probes)
  const kept = folds ? overlayBytes(methodOptions) * elements(trained) : 0
  const workOf = (plan: Plan, cut: Cut) =>
    stepWork({ model, plan, cut, method, methodOptions, probes, folds, dtype, config })
  const work = workOf(plan, cut)
  // With nothing streamed, to say whether more memory would help.
  const withAmple = (each: BatchShape) =>
    planned(each, { budgetBytes: Infinity, resident: 'all' }).plan
  const ampleCut = cutOf(withAmple, shape)
  const ample = withAmple(partOf(shape, ampleCut))
  const least = { budgetBytes: Infinity, resident: 'none', slabBytes: 1 } as const
  const onePass = planThatFits(() => planFor({ ...design, ...least }, tensors, shape, memory))
  const described = describe(source, model, plan, work, config, kept, demand.hostBytes)
  const passes = passReport(cut, onePass?.peakBytes ?? null)
  const evaluated = sweepReport(planned, config)
  const json = { ...described.json, ...passes.json, ...evaluated.json }
  const lines = [...described.lines, ...passes.lines, ...evaluated.lines]
  return {
    json,
    lines,
    work,
    files,
    ample: { peakBytes: ample.peakBytes, work: workOf(ample, ampleCut) },
  }
}

export type Planned = Awaited<ReturnType<typeof planReport>>

/** Where the weights of the plan come from: they stay in the page cache if there is room for them. */
export function tierOf({ json, files }: Pick<Planned, 'json' | 'files'>): Tier {
  if (files.some(isSynthetic) && json.disk_bytes === 0) return 'synthetic'
  return fitsPageCache(json.weight_bytes + json.disk_bytes) ? 'memory' : 'disk'
}

/** A gain below this is not worth a word: predictions are rougher. */
const FASTER = 0.95

/** Time, bound and break-even batch of a step, and what more memory would give, as JSON and lines. */
export function predictionReport(
  { work, ample, json: { device_peak_bytes: peakBytes } }: Planned,
  rates: Rates,
  tier: Tier,
  diskRate: number,
) {
  const p = predictStep(work, rates, tier, diskRate)
  const most = predictStep(ample.work, rates, tier, diskRate)
  const faster = ample.peakBytes > peakBytes && most.stepMs < FASTER * p.stepMs
  const round = (ms: number) => Math.round(ms * 10) / 10
  const json = {
    step_ms: round(p.stepMs),
    compute_ms: round(p.computeMs),
    upload_ms: round(p.uploadMs),
    disk_ms: round(p.diskMs),
    bound: p.bound,
    break_even_batch: p.breakEvenBatch,
    faster: faster ? { device_peak_bytes: ample.peakBytes, step_ms: round(most.stepMs) } : null,
  }
  const seconds = (ms: number) => formatSeconds(ms / 1000)
  const parts = `compute ${seconds(p.computeMs)}, upload ${seconds(p.uploadMs)}, reads ${seconds(p.diskMs)}`
  const lines = table([
    ['step', `${seconds(p.stepMs)}, bound by ${p.bound} (${parts})`],
    [
      'break-even batch',
      p.breakEvenBatch === null ? 'none' : `${p.breakEvenBatch} x ${work.tokens} tokens`,
    ],
    [
      'more memory',
      faster
        ? `${seconds(most.stepMs)} with --memory ${formatBytes(ample.peakBytes, 'up')}`
        : 'would not be faster',
    ],
  ])
  return { json, lines }
}

/** Evaluation of many batches: how many share an upload of the weights, and the device's peak. */
function sweepReport(planned: Engine['planFor'], config: Config) {
  const shape = { batch: config.evalBatchSize ?? config.batchSize, tokens: config.maxLength }
  const cut = cutOf((each) => planned(each).plan, { probes: 1, ...shape })
  const part = { ...shape, batch: cut.batch }
  const whole = cut.passes === 1
  const batches = whole ? batchesPerSweep(planned, config.memory, shape, MANY_BATCHES) : 1
  const { plan } = planned({ probes: 1, ...part, ...(batches > 1 && { sweep: batches }) })
  return {
    json: {
      eval_batches_per_sweep: batches,
      eval_passes_per_batch: cut.passes,
      eval_device_peak_bytes: plan.peakBytes,
    },
    lines: table([
      [
        'evaluation',
        `${batches} x ${part.batch} sequences per upload, peak ${formatBytes(plan.peakBytes)}`,
      ],
    ]),
  }
}

/**
 * Passes over the weights in a step; why, and what one pass would need, where there are several: null
 * where the device can have it in no budget.
 */
function passReport(cut: Cut, onePassBytes: number | null) {
  const json = {
    passes_per_step: cut.passes,
    probes_per_pass: cut.probes,
    sequences_per_pass: cut.batch,
    one_pass_device_peak_bytes: cut.passes === 1 ? null : onePassBytes,
  }
  if (cut.passes === 1) return { json, lines: [] }
  const enough =
    onePassBytes === null
      ? 'no --memory makes it one'
      : `one pass with --memory ${formatBytes(onePassBytes, 'up')}`
  return { json, lines: table([['passes', `${passesOf(cut)}; ${enough}`]]) }
}

const elements = (list: readonly { rows: number; cols: number }[]) =>
  list.reduce((sum, m) => sum + m.rows * m.cols, 0)

function describe(
  source: string,
  model: Model,
  plan: Plan,
  work: ReturnType<typeof stepWork>,
  config: Config,
  kept: number,
  stateBytes: number,
) {
  const distinct = distinctMatrices(model)
  const vectors = model.vectors.reduce((sum, v) => sum + v.size, 0)
  const inMemory = kept <= config.ram
  const { traffic } = work
  const json = {
    model: source,
    parameters: elements(distinct) + vectors,
    device_peak_bytes: plan.peakBytes,
    device_bytes: plan.bytes,
    slabs: plan.slabs.length,
    resident_slabs: plan.residentSlabs,
    slots: plan.slots,
    slot_bytes: plan.slotBytes,
    // Vectors, the method's state, and the overlay (from the first fold on) unless it is a file.
    host_bytes: 4 * vectors + stateBytes + (inMemory ? kept : 0),
    disk_bytes: inMemory ? 0 : kept,
    weight_bytes: work.weightBytes,
    // Per step, the mean over the run: folded weights are read from the overlay.
    read_bytes: traffic.readBytes,
    upload_bytes: traffic.uploadBytes,
    download_bytes: traffic.downloadBytes,
    folded_read_bytes: work.foldedBytes,
  }
  const lines = [
    `${source}: ${(json.parameters / 1e6).toFixed(1)} M parameters, ${config.method}, batch ${config.batchSize} x ${config.maxLength} tokens`,
    ...memoryTable(plan.bytes),
    ...table([
      ['slabs', `${json.slabs} (${json.resident_slabs} resident)`],
      ['slots', `${plan.slots} of ${formatBytes(plan.slotBytes)}`],
      ['host memory', formatBytes(json.host_bytes)],
      ['scratch file', formatBytes(json.disk_bytes)],
      [
        'read per step',
        `${formatBytes(json.read_bytes)}, ${formatBytes(json.folded_read_bytes)} once folded`,
      ],
      ['down per step', formatBytes(json.download_bytes)],
    ]),
  ]
  return { json, lines }
}

/** The model's shapes: from its checkpoint if there is one here, else from its config alone. */
async function shapes(source: string, config: Config, report: Reporter) {
  const synthetic = parseSynthetic(source)
  if (synthetic) {
    const { model } = syntheticModel(synthetic)
    return { model, tensors: imagined(model, 'F16'), dtype: 'F16' as DType, files: [source] }
  }
  const {
    dir,
    weights,
    source: where,
  } = await resolveModel(source, {
    include: 'config',
    log: (line) => report.line(line),
    ...(config.revision === undefined ? {} : { revision: config.revision }),
    ...(config.cacheDir === undefined ? {} : { cacheDir: config.cacheDir }),
  })
  const json = await readJsonObject(join(dir, 'config.json'))
  const model = createModel(json)
  if (where === 'local') {
    const checkpoint = await openCheckpoint(dir, weights)
    const tensors = findTensors(model, checkpoint)
    return { model, tensors, dtype: tensors.matrices[0]!.entry.dtype, files: checkpoint.files }
  }
  const name = String(json['dtype'] ?? json['torch_dtype'] ?? 'float32')
  const dtype = Object.hasOwn(DTYPES, name) ? DTYPES[name as Config['dtype']] : 'F32'
  return { model, tensors: imagined(model, dtype), dtype, files: [] }
}

/** Tensors of one dtype as config.json means them; no file behind them. */
function imagined(model: Model, dtype: DType): ModelTensors {
  const entry = (name: string, shape: number[]) => ({
    name,
    dtype,
    shape,
    file: '',
    offsetBytes: 0,
    bytes: shape.reduce((a, b) => a * b, 1) * DTYPE_BYTES[dtype],
  })
  return {
    matrices: distinctMatrices(model).map((matrix) => ({
      matrix,
      entry: entry(matrix.name, [matrix.rows, matrix.cols]),
    })),
    vectors: model.vectors.map((v) => entry(v.name, [v.size])),
  }
}
