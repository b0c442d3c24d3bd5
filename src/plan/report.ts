// `zo2 plan`: the planner's answer as a table and as the JSON that scripts rely on. Needs config.json
// only; of a hub model the weights are not downloaded. What the time of a step is made of is in
// predict.ts; the machine's rates are the caller's.

import { join } from 'node:path'
import { createModel } from '../../models/index.ts'
import { distinctMatrices, type Model } from '../../models/model.ts'
import type { Plan } from '../../scheduler/plan.ts'
import type { Config } from '../config/options.ts'
import { evenTexts, packTexts } from '../data/packing.ts'
import { passesFor, passesOf, planThatFits, shapeOf, splitOf, type Split } from '../engine/split.ts'
import { planFor, type Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { predictStep, type Rates, type Tier } from './predict.ts'
import { formatSeconds, memoryTable, table, type Reporter } from '../util/console.ts'
import { designOf, memoryModel } from '../engine/open.ts'
import { prefixed, syntheticModel } from '../engine/load.ts'
import { stepWork } from './work.ts'
import { findTensors, type ModelTensors } from '../engine/tensors.ts'
import { formatBytes } from '../util/units.ts'
import { openCheckpoint } from '../checkpoint/open.ts'
import { readJsonObject } from '../io/read.ts'
import { resolveModel } from '../hub/resolve.ts'
import { overlayBytes } from '../weights/store.ts'
import { fitsPageCache } from '../weights/page-cache.ts'
import { isSynthetic, parseSynthetic } from '../checkpoint/synthetic.ts'
import { DTYPE_BYTES, DTYPES, type DType } from '../util/dtypes.ts'
import { share, type BatchShape } from '../engine/shape.ts'

/** As if an evaluation had so many texts: what a long one does. */
const MANY_TEXTS = 2 ** 14

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
  const texts = packTexts(evenTexts(batch, tokens))
  const split = splitOf(exactly, texts, probes)
  const plan = exactly(split.shape)
  const trained = distinctMatrices(model).filter(({ name }) => methodOptions.selection.trains(name))
  const demand = method.demand(methodOptions, distinctMatrices(model), probes)
  const kept = folds ? overlayBytes(methodOptions) * elements(trained) : 0
  const workOf = (plan: Plan, split: Split) =>
    stepWork({ model, plan, split, method, methodOptions, probes, folds, dtype, config })
  const work = workOf(plan, split)
  // With nothing streamed, to say whether more memory would help.
  const withAmple = (each: BatchShape) =>
    planned(each, { budgetBytes: Infinity, resident: 'all' }).plan
  const ampleSplit = splitOf(withAmple, texts, probes)
  const ample = withAmple(ampleSplit.shape)
  const least = { budgetBytes: Infinity, resident: 'none', slabBytes: 1 } as const
  const whole = shapeOf(texts, probes)
  const onePass = planThatFits(() => planFor({ ...design, ...least }, tensors, whole, memory))
  const described = describe(source, model, plan, work, config, kept, demand.hostBytes)
  const passes = passReport(split, onePass?.peakBytes ?? null)
  const evaluated = evaluationReport(planned, config)
  const json = { ...described.json, ...passes.json, ...evaluated.json }
  const lines = [...described.lines, ...passes.lines, ...evaluated.lines]
  return {
    json,
    lines,
    work,
    files,
    ample: { peakBytes: ample.peakBytes, work: workOf(ample, ampleSplit) },
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
      p.breakEvenBatch === null ? 'none' : `${p.breakEvenBatch} x ${work.rowsPerText + 1} tokens`,
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

/** Evaluation of many texts: how many share a pass over the weights, and the device's peak. */
function evaluationReport(planFor: Engine['planFor'], { maxLength }: Config) {
  const one = shapeOf(packTexts(evenTexts(1, maxLength)), 1)
  const all = { ...one, rows: MANY_TEXTS * one.rows, wanted: MANY_TEXTS * one.wanted }
  const many = { ...all, groups: MANY_TEXTS, listed: MANY_TEXTS * one.listed }
  const passes = passesFor({ planFor, heldRows: 0 }, many)
  const { plan } = planFor(share(many, passes))
  const texts = Math.ceil(MANY_TEXTS / passes)
  return {
    json: { eval_texts_per_pass: texts, eval_device_peak_bytes: plan.peakBytes },
    lines: table([['evaluation', `${texts} texts per pass, peak ${formatBytes(plan.peakBytes)}`]]),
  }
}

/**
 * Passes over the weights in a step; why, and what one pass would need, where there are several: null
 * where the device can have it in no budget.
 */
function passReport(split: Split, onePassBytes: number | null) {
  const json = {
    passes_per_step: split.passes,
    probes_per_pass: split.probes,
    texts_per_pass: split.texts,
    one_pass_device_peak_bytes: split.passes === 1 ? null : onePassBytes,
  }
  if (split.passes === 1) return { json, lines: [] }
  const enough =
    onePassBytes === null
      ? 'no --memory makes it one'
      : `one pass with --memory ${formatBytes(onePassBytes, 'up')}`
  return { json, lines: table([['passes', `${passesOf(split)}; ${enough}`]]) }
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
  if (where === 'local') {
    const checkpoint = await openCheckpoint(dir, weights)
    const model = createModel(checkpoint.config)
    const tensors = findTensors(model, checkpoint)
    return { model, tensors, dtype: tensors.matrices[0]!.entry.dtype, files: checkpoint.files }
  }
  const json = await readJsonObject(join(dir, 'config.json'))
  const model = createModel(json)
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
