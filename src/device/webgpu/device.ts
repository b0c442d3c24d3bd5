// Opens the webgpu device: adapter, upload strategy, and the parts of the contract joined into one.
// Allocation and transfers are host.ts's, operations on rows rows.ts's, on slabs slabs.ts's.

import type { Device } from '../device.ts'
import { openAdapter, type OpenAdapter, TIMESTAMPS } from './adapter.ts'
import { Commands } from './commands.ts'
import { createHostPart } from './host.ts'
import { webgpuMemory } from './memory.ts'
import { createRowPart } from './rows.ts'
import { Runtime } from './runtime.ts'
import { createSlabPart } from './slabs.ts'
import { createTimer } from './timer.ts'
import { fasterStrategy, measureDirect, type Strategy } from './transfer.ts'
import { tune, type Tuning } from './tune.ts'
import { type VariantChoice, defaultChoice, isChoice } from './variants.ts'

export { bindingBytes, listAdapters } from './adapter.ts'
export type { Tuning } from './tune.ts'
export { SHAPE_CLASSES } from './variants.ts'

/** Where the choice of kernels is kept, by adapter. What `read` gives is checked here. */
export interface ChoiceStore {
  read(adapterId: string): Promise<unknown>
  write(adapterId: string, choice: VariantChoice): Promise<void>
}

interface WebgpuOptions {
  /** Part of an adapter's name; without it the first hardware adapter. */
  adapter?: string
  /** How slabs are uploaded; 'auto' measures once at the start. */
  transfer?: 'auto' | Strategy
  /** Kernels are measured where it knows no choice; without it the defaults are used unmeasured. */
  choices?: ChoiceStore
  /** Gives the device `measure`, if the adapter has timestamps. */
  timed?: boolean
}

/**
 * Opens a device. Throws UserError when there is no such adapter, with the command that mends it.
 * Errors of later work surface at a later call; an awaited `read`, `stage` or `sync` has them all.
 */
export async function openWebgpu(options: WebgpuOptions = {}): Promise<Device> {
  const adapter = await openAdapter(options.adapter, options.timed)
  try {
    const commands = new Commands(adapter.gpu)
    watchFailures(adapter, commands)
    const { strategy, why } = await chooseStrategy(commands, options.transfer ?? 'auto')
    const choice = await chooseKernels(commands, adapter, options.choices)
    const runtime = new Runtime(adapter, commands, strategy)
    const timed = options.timed && adapter.gpu.features.has(TIMESTAMPS)
    const measure = timed ? await createTimer(commands) : undefined
    const device: Device = {
      info: {
        kind: 'webgpu',
        name: adapter.name,
        detail: `${adapter.driver}; uploads: ${strategy} (${why}); ${kernelNames(choice)}`,
        software: adapter.software,
      },
      ledger: runtime.ledger,
      memory: webgpuMemory(adapter.maxBindingBytes),
      prefersF32: false,
      sharesCores: false,
      stagesInPlace: false,
      ...createHostPart(runtime),
      ...createSlabPart(runtime, choice),
      ...createRowPart(runtime),
      ...(measure && { measure }),
      async sync() {
        runtime.check()
        await commands.over(commands.serial)
        await commands.settled()
      },
      close: () => runtime.close(),
    }
    await commands.settled()
    return device
  } catch (error) {
    adapter.close()
    throw error
  }
}

/** Measures the kernels of an adapter anew and keeps the choice. */
export async function tuneWebgpu(
  wanted: string | undefined,
  choices: ChoiceStore,
): Promise<Tuning & { readonly adapter: string }> {
  const adapter = await openAdapter(wanted)
  try {
    const commands = new Commands(adapter.gpu)
    watchFailures(adapter, commands)
    const tuning = await tune(commands, adapter)
    await choices.write(adapter.id, tuning.choice)
    return { ...tuning, adapter: adapter.name }
  } finally {
    adapter.close()
  }
}

async function chooseKernels(
  commands: Commands,
  adapter: OpenAdapter,
  choices: ChoiceStore | undefined,
): Promise<VariantChoice> {
  if (!choices) return defaultChoice(adapter)
  const known = await choices.read(adapter.id)
  if (isChoice(adapter, known)) return known
  const { choice } = await tune(commands, adapter)
  // Another process may have measured meanwhile: all then use what was kept first.
  const kept = await choices.read(adapter.id)
  if (isChoice(adapter, kept)) return kept
  await choices.write(adapter.id, choice)
  return choice
}

/** For the log: what multiplies many rows and few. */
const kernelNames = ({ many, few }: VariantChoice) =>
  many === few ? many : `${many}, few rows ${few.replace('matmul ', '')}`

async function chooseStrategy(commands: Commands, wanted: 'auto' | Strategy) {
  if (wanted !== 'auto') return { strategy: wanted, why: 'as asked' }
  const rate = await measureDirect(commands)
  return { strategy: fasterStrategy(rate), why: `direct writes ${(rate / 1e9).toFixed(1)} GB/s` }
}

function watchFailures({ gpu, lost }: OpenAdapter, commands: Commands) {
  gpu.onuncapturederror = ({ error }) => {
    commands.fail(new Error(`the GPU device refused a command: ${error.message}`))
  }
  void lost.then((error) => commands.lose(error))
}
