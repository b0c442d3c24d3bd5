// The composition root: from a configuration to an open device, a checkpoint and an engine. The
// only place where parts are joined; nobody below imports it.

import { join } from 'node:path'
import { createModel } from '../../models/index.ts'
import type { Model } from '../../models/model.ts'
import { withPrefix } from '../../models/prefix.ts'
import type { Config } from '../config/options.ts'
import { cpuMemory } from '../device/cpu/memory.ts'
import type { Device, MemoryModel, TensorDType } from '../device/device.ts'
import { webgpuMemory } from '../device/webgpu/memory.ts'
import { createEngine, type Engine, type EngineOptions } from './engine.ts'
import { UserError } from '../util/errors.ts'
import { kernelChoices } from './tuned-kernels.ts'
import { createEstimator } from '../methods/estimator.ts'
import { createMethod } from '../methods/index.ts'
import { isTarget, loraMethod, loraSelection } from '../methods/lora.ts'
import type { Method, MethodOptions, Update } from '../methods/method.ts'
import { createSelection, globs } from '../methods/selection.ts'
import { createTracedEngine } from './trace.ts'
import { openTrace } from '../records/trace.ts'
import { PREFIX_FILE, prefixSelection, withPrefixFile, writePrefix } from './prefix.ts'
import type { Reporter } from '../util/console.ts'
import { formatBytes } from '../util/units.ts'
import { openCheckpoint } from '../checkpoint/open.ts'
import { resolveModel } from '../hub/resolve.ts'
import {
  parseSynthetic,
  syntheticCheckpoint,
  syntheticConfig,
  syntheticSource,
  type Synthetic,
} from '../checkpoint/synthetic.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import type { DType } from '../util/dtypes.ts'
import { listing } from '../util/untrusted.ts'
import { ignoredTensors } from './tensors.ts'

export const DTYPES: Readonly<Record<Config['dtype'], DType>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
}

/** How the activations of a configuration are kept. */
export const activationsOf = ({ activationDtype }: Pick<Config, 'activationDtype'>): TensorDType =>
  activationDtype === 'float16' ? 'F16' : 'F32'

/** A model whose headers are read and checked; no weights in memory, no device open. */
export interface LoadedModel {
  readonly source: string
  readonly dir: string
  /** The hub commit, or null for a local folder. */
  readonly commit: string | null
  readonly checkpoint: Checkpoint
  readonly model: Model
}

/** Finds a model (folder or hub id), downloading what is missing; with the prefix that is asked for. */
export async function loadModel(
  source: string,
  config: Pick<Config, 'revision' | 'cacheDir' | 'prefixTokens'>,
  report: Reporter,
): Promise<LoadedModel> {
  return prefixed(await findModel(source, config, report), config)
}

/** The model with the prefix of --prefix-tokens, if there is to be one. */
export const prefixed = <T extends { readonly model: Model }>(
  loaded: T,
  { prefixTokens: n }: Pick<Config, 'prefixTokens'>,
): T => (n === undefined ? loaded : { ...loaded, model: withPrefix(loaded.model, n) })

async function findModel(
  source: string,
  config: Pick<Config, 'revision' | 'cacheDir'>,
  report: Reporter,
): Promise<LoadedModel> {
  const synthetic = parseSynthetic(source)
  if (synthetic) return syntheticModel(synthetic)
  const seen = new Set<string>() // a line for each file, also where live lines are not shown
  const { dir, commit, weights } = await resolveModel(source, {
    ...(config.revision === undefined ? {} : { revision: config.revision }),
    ...(config.cacheDir === undefined ? {} : { cacheDir: config.cacheDir }),
    log: (line) => report.line(line),
    onProgress: ({ file, doneBytes, totalBytes }) => {
      if (!seen.has(file)) report.line(`downloading ${file}, ${formatBytes(totalBytes)}`)
      seen.add(file)
      report.live(`${file}  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`)
    },
  })
  const checkpoint = await openCheckpoint(dir, weights)
  const model = createModel(checkpoint.config)
  const ignored = await ignoredTensors(model, checkpoint)
  if (ignored.length > 0) {
    const what = 'holds tensors that the model of its config.json does not use'
    report.line(`${dir} ${what}: ${listing(ignored)}`)
  }
  return { source, dir, commit, checkpoint, model }
}

/** A model of true shape without weights of its own. */
export function syntheticModel(synthetic: Synthetic): LoadedModel {
  const source = syntheticSource(synthetic)
  const config = syntheticConfig(synthetic)
  const model = createModel(config)
  const matrices = new Map([...model.tables, ...model.matrices].map((m) => [m.name, m]))
  const checkpoint = syntheticCheckpoint(source, config, [
    ...[...matrices.values()].map(({ name, rows, cols }) => ({ name, shape: [rows, cols] })),
    ...model.vectors.map(({ name, size: length }) => ({ name, shape: [length] })),
  ])
  return { source, dir: source, commit: null, checkpoint, model }
}

/** The memory model of the device that `config` will open, without opening it. */
export async function memoryModel(
  config: Pick<Config, 'device' | 'adapter'>,
): Promise<MemoryModel> {
  return (await deviceKind(config)) === 'cpu' ? cpuMemory : webgpuMemory
}

/** auto: a hardware GPU if there is one, else cpu. A named adapter means webgpu. */
async function deviceKind(config: Pick<Config, 'device' | 'adapter'>): Promise<'cpu' | 'webgpu'> {
  if (config.device !== 'auto') {
    if (config.device === 'cpu' && config.adapter !== undefined) {
      throw new UserError('--adapter names a WebGPU adapter; leave out --device cpu', {
        exitCode: 2,
      })
    }
    return config.device
  }
  if (config.adapter !== undefined) return 'webgpu'
  const { listAdapters } = await import('../device/webgpu/device.ts')
  return (await listAdapters()).some((adapter) => !adapter.software) ? 'webgpu' : 'cpu'
}

/** Opens the device that the configuration asks for. */
export async function openDevice(
  config: Pick<Config, 'device' | 'adapter' | 'transfer' | 'threads' | 'trace'>,
): Promise<Device> {
  if ((await deviceKind(config)) === 'cpu') {
    const { openCpu } = await import('../device/cpu/device.ts')
    return openCpu({ threads: config.threads })
  }
  const { openWebgpu } = await import('../device/webgpu/device.ts')
  return openWebgpu({
    transfer: config.transfer,
    choices: kernelChoices,
    timed: config.trace !== undefined,
    ...(config.adapter === undefined ? {} : { adapter: config.adapter }),
  })
}

/** What an engine needs beyond the model: trajectory and purpose. */
export interface EngineState {
  readonly updates: readonly Update[]
  readonly folded: number
  readonly trains: boolean
  /** Source of the weights if not the model's own folder (a saved checkpoint). */
  readonly checkpoint?: Checkpoint
  readonly scratchDir: string
  /** Folder of a prefix's initial values; scratchDir if left out. */
  readonly prefixDir?: string
}

/** Method, estimator and selection of a configuration. */
export function methodOf(config: Config, model: Model) {
  const { seed, trainOnly, freeze, layersPerStep } = config
  const all = createSelection({ seed, layers: model.layers, trainOnly, freeze, layersPerStep })
  const lora = loraOf(config, model)
  const selection = lora ? loraSelection(all) : model.prefixTokens ? prefixSelection(all) : all
  const names = [...model.tables, ...model.matrices, ...model.vectors].map(({ name }) => name)
  checkPatterns('--train-only', trainOnly, names)
  checkPatterns('--freeze', freeze, names)
  const trained = lora ? names.filter((name) => isTarget(name, lora.targets)) : names
  if (!trained.some((name) => all.trains(name))) {
    throw new UserError(
      `--train-only ${trainOnly?.join() ?? '*'} and --freeze ${freeze?.join() ?? ''} leave no tensor of this model to train; "zo2 inspect" lists their names`,
    )
  }
  if (layersPerStep !== undefined && layersPerStep > model.layers) {
    throw new UserError(
      `--layers-per-step ${layersPerStep}: this model has ${model.layers} layers; expected at most that`,
    )
  }
  return {
    method: lora ? loraMethod(lora) : createMethod(config.method),
    estimator: createEstimator(config.estimator, config.probes),
    methodOptions: { ...config, selection, directions: config.probes },
  }
}

/** UserError for a pattern without a tensor: it would do nothing, and a slip would go unseen. */
function checkPatterns(flag: string, patterns: readonly string[] = [], names: readonly string[]) {
  const idle = patterns.find((pattern) => !names.some(globs([pattern])))
  if (idle === undefined) return
  throw new UserError(
    `${flag} ${idle}: no tensor of this model has such a name; its names are ${listing(names)}`,
  )
}

/** LoRA's options, if it is asked for. UserError if a target names no matrix of the model. */
function loraOf({ loraRank: rank, loraAlpha, loraTargets }: Config, model: Model) {
  if (rank === undefined) return null
  const tables = new Set(model.tables.map(({ name }) => name))
  const names = model.matrices.map(({ name }) => name).filter((name) => !tables.has(name))
  for (const target of loraTargets) {
    if (names.some((name) => isTarget(name, [target]))) continue
    const known = new Set(names.map((name) => name.split('.').at(-2)))
    throw new UserError(
      `--lora-targets ${target}: no such linear module in this model; it has ${[...known].join(', ')}`,
    )
  }
  return { rank, alpha: loraAlpha, targets: loraTargets }
}

/** Whether a run of this configuration can come to fold updates into its overlay. */
export const mayFold = (config: Config, method: Method, options: MethodOptions) =>
  method.structure === 'dense' || config.steps > config.window * method.foldWindows(options)

export function engineOptions(
  loaded: LoadedModel,
  config: Config,
  memory: MemoryModel,
  state: EngineState,
): EngineOptions {
  const chosen = methodOf(config, loaded.model)
  return {
    checkpoint: state.checkpoint ?? loaded.checkpoint,
    model: loaded.model,
    ...chosen,
    updates: state.updates,
    folded: state.folded,
    memory,
    budgetBytes: config.memory,
    slabBytes: config.slab,
    resident: config.resident,
    folds: state.trains && mayFold(config, chosen.method, chosen.methodOptions),
    activations: activationsOf(config),
    ramBytes: config.ram,
    scratchDir: config.scratchDir ?? state.scratchDir,
    threads: config.threads,
  }
}

/**
 * engineOptions for an open device, with the initial values of a prefix if there is one: made anew for a
 * run that begins, else from its folder.
 */
export async function readyOptions(
  device: Device,
  loaded: LoadedModel,
  config: Config,
  state: EngineState,
): Promise<EngineOptions> {
  const memory = device.info.kind === 'cpu' ? cpuMemory : webgpuMemory
  const options = engineOptions(loaded, config, memory, state)
  const { prefixTokens: n, seed } = config
  if (n === undefined) return options
  const dir = state.prefixDir ?? state.scratchDir
  if (state.trains && state.updates.length === 0) {
    const model = createModel(loaded.checkpoint.config)
    const engine = await createEngine(device, { ...options, model })
    try {
      await writePrefix(engine, n, seed, join(dir, PREFIX_FILE))
    } finally {
      await engine.close()
    }
  }
  return { ...options, checkpoint: await withPrefixFile(loaded.checkpoint, dir) }
}

/** Opens device and engine together; `close` closes both, in order, also after a failure. */
export async function openEngine(
  loaded: LoadedModel,
  config: Config,
  state: EngineState,
): Promise<{ engine: Engine; device: Device; close: () => Promise<void> }> {
  const device = await openDevice(config)
  try {
    const trace = config.trace === undefined ? null : await openTrace(config.trace)
    const options = await readyOptions(device, loaded, config, state)
    const engine = await (trace
      ? createTracedEngine(device, options, trace)
      : createEngine(device, options))
    const close = async () => {
      try {
        await engine.close()
      } finally {
        await device.close()
      }
    }
    return { engine, device, close }
  } catch (error) {
    await device.close()
    throw error
  }
}
