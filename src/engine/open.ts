// From a configuration to an open device and an engine on it: the only place where the parts are joined.
// What is opened here is closed by the `close` that comes with it, also after a failure.

import { join } from 'node:path'
import { createModel } from '../../models/index.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import type { Config } from '../config/options.ts'
import { cpuMemory } from '../device/cpu/memory.ts'
import type { Device, TensorDType } from '../device/device.ts'
import type { MemoryModel } from '../device/memory.ts'
import { webgpuMemory } from '../device/webgpu/memory.ts'
import { withScratchFolder } from '../io/scratch.ts'
import type { Update } from '../methods/method.ts'
import { openTrace } from '../records/trace.ts'
import type { Reporter } from '../util/console.ts'
import { UserError } from '../util/errors.ts'
import { createEngine, type Engine, type EngineDesign, type EngineOptions } from './engine.ts'
import type { LoadedModel } from './load.ts'
import { methodOf } from './method.ts'
import { PREFIX_FILE, withPrefixFile, writePrefix } from './prefix.ts'
import { createTracedEngine } from './trace.ts'
import { kernelChoices } from './tuned-kernels.ts'

/** How a configuration wants activations kept. */
const activationsOf = ({ activationDtype }: Pick<Config, 'activationDtype'>): TensorDType =>
  activationDtype === 'float16' ? 'F16' : 'F32'

/**
 * The memory model of the device that `config` will open, without opening it; for an adapter that this
 * machine does not have, that of one which binds what WebGPU promises of all.
 */
export async function memoryModel(
  config: Pick<Config, 'device' | 'adapter'>,
): Promise<MemoryModel> {
  if ((await deviceKind(config)) === 'cpu') return cpuMemory
  const { bindingBytes } = await import('../device/webgpu/device.ts')
  try {
    return webgpuMemory(await bindingBytes(config.adapter))
  } catch (error) {
    if (error instanceof UserError) return webgpuMemory()
    throw error
  }
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
  config: Pick<Config, 'device' | 'adapter' | 'transfer' | 'blas' | 'threads' | 'trace'>,
): Promise<Device> {
  if ((await deviceKind(config)) === 'cpu') {
    const { openCpu } = await import('../device/cpu/device.ts')
    return openCpu({ threads: config.threads, blas: config.blas })
  }
  const { openWebgpu } = await import('../device/webgpu/device.ts')
  return openWebgpu({
    transfer: config.transfer,
    choices: kernelChoices,
    timed: config.trace !== undefined,
    ...(config.adapter === undefined ? {} : { adapter: config.adapter }),
  })
}

/** What an engine needs beyond model and configuration: trajectory and purpose. */
export interface EngineState {
  /** Updates made so far, oldest first. */
  readonly updates: readonly Update[]
  /** How many of them the checkpoint's files contain. */
  readonly folded: number
  readonly trains: boolean
  /** Source of the weights if not the model's own folder (a saved checkpoint). */
  readonly checkpoint?: Checkpoint
  readonly scratchDir: string
  /** Folder of a prefix's initial values; scratchDir if left out. */
  readonly prefixDir?: string
}

/** The state of a model that nothing was done to. */
export const UNTRAINED = { updates: [], folded: 0 } as const

export interface OpenEngine {
  readonly engine: Engine
  readonly device: Device
  /** Closes the engine, and the device unless it was open before. */
  close(): Promise<void>
}

/**
 * Opens an engine, with a device of its own unless one is given.
 * @throws UserError for a device that is not there, options that the model cannot have, lost weights
 */
export async function openEngine(
  loaded: LoadedModel,
  config: Config,
  state: EngineState,
  open?: Device,
): Promise<OpenEngine> {
  const device = open ?? (await openDevice(config))
  const closeDevice = async () => {
    if (!open) await device.close()
  }
  try {
    const trace = config.trace === undefined ? null : await openTrace(config.trace)
    const options = await optionsFor(device, loaded, config, state)
    const engine = await (trace
      ? createTracedEngine(device, options, trace)
      : createEngine(device, options))
    const close = async () => {
      try {
        await engine.close()
      } finally {
        await closeDevice()
      }
    }
    return { engine, device, close }
  } catch (error) {
    await closeDevice()
    throw error
  }
}

/** Runs `use` on an engine with a scratch folder of its own, says on which device, and closes all again. */
export async function withEngine<T>(
  loaded: LoadedModel,
  config: Config,
  { trains, report }: { readonly trains: boolean; readonly report: Reporter },
  use: (engine: Engine) => Promise<T>,
): Promise<T> {
  return withScratchFolder(async (scratchDir) => {
    const opened = await openEngine(loaded, config, { ...UNTRAINED, trains, scratchDir })
    try {
      openedLines(opened, config).forEach((line) => report.line(line))
      return await use(opened.engine)
    } finally {
      await opened.close()
    }
  })
}

/** What is said of an engine once it is open: its device, and whether activations are kept otherwise than asked. */
export function openedLines(
  { device: { info }, engine }: Omit<OpenEngine, 'close'>,
  config: Config,
) {
  const { model, options } = engine
  const line = `device ${info.kind}: ${info.name} (${info.detail})`
  if (options.activations === activationsOf(config)) return [line]
  return [line, `activations are kept in float32: those of ${model.modelType} overflow float16`]
}

/** The design that a configuration means; `trains`: whether updates may come to be folded. */
export function designOf(
  { model }: Pick<LoadedModel, 'model'>,
  config: Config,
  trains: boolean,
): EngineDesign {
  const chosen = methodOf(config, model)
  return {
    model,
    ...chosen,
    budgetBytes: config.memory,
    slabBytes: config.slab,
    resident: config.resident,
    folds: trains && chosen.method.folds(chosen.methodOptions, config.steps),
    activations: model.needsF32 ? 'F32' : activationsOf(config),
    ramBytes: config.ram,
    threads: config.threads,
  }
}

/** With the initial values of a prefix if there is one: made anew for a run that begins. */
async function optionsFor(
  device: Device,
  loaded: LoadedModel,
  config: Config,
  state: EngineState,
): Promise<EngineOptions> {
  const { updates, folded, scratchDir, checkpoint = loaded.checkpoint } = state
  const options = {
    ...designOf(loaded, config, state.trains),
    checkpoint,
    updates,
    folded,
    scratchDir: config.scratchDir ?? scratchDir,
  }
  if (config.prefixTokens === undefined) return options
  const dir = state.prefixDir ?? scratchDir
  if (state.trains && updates.length === 0) await makePrefix(device, options, config, dir)
  return { ...options, checkpoint: await withPrefixFile(loaded.checkpoint, dir) }
}

/** Writes the initial values of a prefix: the activations of an engine without one. */
async function makePrefix(device: Device, options: EngineOptions, config: Config, dir: string) {
  const model = createModel(options.checkpoint.config)
  const engine = await createEngine(device, { ...options, model })
  try {
    await writePrefix(engine, config.prefixTokens!, config.seed, join(dir, PREFIX_FILE))
  } finally {
    await engine.close()
  }
}
