// `zo2 plan`: the planner's answer as a table and as the JSON that scripts rely on. Needs config.json
// only; of a hub model the weights are not downloaded.

import { createModel } from '../models/index.ts'
import type { Model } from '../models/model.ts'
import type { Plan } from '../scheduler/plan.ts'
import type { Config } from './config.ts'
import { planFor } from './engine.ts'
import { UserError } from './errors.ts'
import { memoryTable, table, type Reporter } from './report.ts'
import { DTYPES, mayFold, memoryModel, methodOf, syntheticModel } from './setup.ts'
import { syntheticSize } from './weights/synthetic.ts'
import { findTensors, type ModelTensors } from './tensors.ts'
import { formatBytes } from './units.ts'
import { openCheckpoint } from './weights/checkpoint.ts'
import { readJsonObject } from './weights/files.ts'
import { resolveModel } from './weights/hub.ts'
import { DTYPE_BYTES, type DType } from './weights/types.ts'
import { join } from 'node:path'

/** Bindings of WebGPU's common adapters; the run itself asks its own adapter. */
const MAX_SLAB_BYTES = 128 * 2 ** 20

/** Plans one training step with batches of batchSize x maxLength. */
export async function planReport(
  source: string,
  config: Config,
  report: Reporter,
  layers?: number,
) {
  const { model, tensors, dtype } = await shapes(source, config, report, layers)
  const { batchSize: batch, maxLength: tokens } = config
  if (tokens > model.maxPositions) {
    throw new UserError(
      `--max-length ${tokens} exceeds the model's ${model.maxPositions} positions; lower it`,
    )
  }
  const chosen = methodOf(config, model)
  const folds = mayFold(config, chosen.method, chosen.methodOptions)
  const probes = chosen.estimator.probes(config.eps).length
  const plan = planFor(
    {
      model,
      ...chosen,
      memory: await memoryModel(config),
      budgetBytes: config.memory,
      slabBytes: config.slab,
      resident: config.resident,
      folds,
      ramBytes: config.ram,
      scratchDir: '',
      threads: config.threads,
    },
    tensors,
    { probes, batch, tokens },
    MAX_SLAB_BYTES,
  )
  const trained = tensorsOf(model).filter(({ name }) => chosen.methodOptions.selection.trains(name))
  const demand = chosen.method.demand(chosen.methodOptions, tensorsOf(model), probes)
  const overlayBytes = folds ? 4 * elements(trained) : 0
  return describe(source, model, plan, dtype, config, overlayBytes, demand.hostBytes)
}

/** Matrices and tables, tied ones once. */
const tensorsOf = (model: Model) => [
  ...new Map([...model.tables, ...model.matrices].map((m) => [m.name, m])).values(),
]

const elements = (list: readonly { rows: number; cols: number }[]) =>
  list.reduce((sum, m) => sum + m.rows * m.cols, 0)

function describe(
  source: string,
  model: Model,
  plan: Plan,
  dtype: DType,
  config: Config,
  overlayBytes: number,
  stateBytes: number,
) {
  const distinct = tensorsOf(model)
  const vectors = model.vectors.reduce((sum, v) => sum + v.size, 0)
  const inMemory = overlayBytes <= config.ram
  const streamed = elements(plan.slabs.filter((slab) => !slab.resident))
  const json = {
    model: source,
    parameters: elements(distinct) + vectors,
    device_peak_bytes: plan.peakBytes,
    device_bytes: plan.bytes,
    slabs: plan.slabs.length,
    resident_slabs: plan.residentSlabs,
    slots: plan.slots,
    slot_bytes: plan.slotBytes,
    // Vectors, the method's state, and the overlay (f32, from the first fold on) unless it is a file.
    host_bytes: 4 * vectors + stateBytes + (inMemory ? overlayBytes : 0),
    disk_bytes: inMemory ? 0 : overlayBytes,
    // Per step, while the base is read as it is; after the first fold slabs are read in f32.
    read_bytes: streamed * DTYPE_BYTES[dtype],
    upload_bytes: streamed * DTYPE_BYTES[dtype],
    download_bytes: 0,
    folded_read_bytes: overlayBytes > 0 ? streamed * 4 : streamed * DTYPE_BYTES[dtype],
  }
  const lines = [
    `${source}: ${(json.parameters / 1e6).toFixed(1)} M parameters, ${config.method}, batch ${config.batchSize} x ${config.maxLength} tokens`,
    ...memoryTable(plan.bytes),
    ...table([
      ['slabs', `${json.slabs} (${json.resident_slabs} resident)`],
      ['slots', `${plan.slots} of ${formatBytes(plan.slotBytes)}`],
      ['host memory', formatBytes(json.host_bytes)],
      ['scratch file', formatBytes(json.disk_bytes)],
      ['read per step', `${formatBytes(json.read_bytes)}, ${formatBytes(json.folded_read_bytes)} once folded`], // prettier-ignore
      ['down per step', formatBytes(0)],
    ]),
  ]
  return { json, lines }
}

/** The model's shapes: from its checkpoint if there is one here, else from its config alone. */
async function shapes(source: string, config: Config, report: Reporter, layers?: number) {
  const size = syntheticSize(source)
  if (size !== null) {
    const { model } = syntheticModel(source, size, layers)
    return { model, tensors: imagined(model, 'F16'), dtype: 'F16' as DType }
  }
  const { dir, source: where } = await resolveModel(source, {
    include: 'config',
    log: (line) => report.line(line),
    ...(config.revision === undefined ? {} : { revision: config.revision }),
    ...(config.cacheDir === undefined ? {} : { cacheDir: config.cacheDir }),
  })
  const json = await readJsonObject(join(dir, 'config.json'), 2 ** 24)
  const model = createModel(json)
  if (where === 'local') {
    const tensors = findTensors(model, await openCheckpoint(dir))
    return { model, tensors, dtype: tensors.matrices[0]!.entry.dtype }
  }
  const name = String(json['torch_dtype'] ?? json['dtype'] ?? 'float32')
  const dtype = Object.hasOwn(DTYPES, name) ? DTYPES[name as Config['dtype']] : 'F32'
  return { model, tensors: imagined(model, dtype), dtype }
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
    matrices: [...model.tables, ...model.matrices].map((matrix) => ({
      matrix,
      entry: entry(matrix.name, [matrix.rows, matrix.cols]),
    })),
    vectors: model.vectors.map((v) => entry(v.name, [v.size])),
  }
}
