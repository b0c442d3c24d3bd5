// Opens the webgpu device: adapter, upload strategy, and the parts of the contract joined into one.

import { UserError } from '../../errors.ts'
import type { Device } from '../device.ts'
import { openAdapter } from './adapter.ts'
import { Commands } from './commands.ts'
import { createHostPart } from './host.ts'
import { createRowPart } from './rows.ts'
import { Runtime } from './runtime.ts'
import { createSlabPart } from './slabs.ts'
import { fasterStrategy, measureDirect, type Strategy } from './transfer.ts'

export { listAdapters } from './adapter.ts'

export interface WebgpuOptions {
  /** Part of an adapter's name; without it the first hardware adapter. */
  adapter?: string
  /** How slabs are uploaded; 'auto' measures once at the start. */
  transfer?: 'auto' | Strategy
}

/**
 * Opens a device. Throws UserError when there is no such adapter, with the command that mends it.
 * Errors of later work surface at a later call; an awaited `read`, `stage` or `sync` has them all.
 */
export async function openWebgpu(options: WebgpuOptions = {}): Promise<Device> {
  const adapter = await openAdapter(options.adapter)
  try {
    const commands = new Commands(adapter.gpu)
    watchFailures(adapter.gpu, commands)
    const { strategy, why } = await chooseStrategy(commands, options.transfer ?? 'auto')
    const runtime = new Runtime(adapter, commands, strategy)
    const device: Device = {
      info: {
        kind: 'webgpu',
        name: adapter.name,
        detail: `${adapter.driver}; uploads: ${strategy} (${why})`,
        software: adapter.software,
      },
      ledger: runtime.ledger,
      maxSlabBytes: Math.floor(adapter.maxBindingBytes / 4) * 4,
      ...createHostPart(runtime),
      ...createSlabPart(runtime),
      ...createRowPart(runtime),
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

async function chooseStrategy(commands: Commands, wanted: 'auto' | Strategy) {
  if (wanted !== 'auto') return { strategy: wanted, why: 'as asked' }
  const rate = await measureDirect(commands)
  return { strategy: fasterStrategy(rate), why: `direct writes ${(rate / 1e9).toFixed(1)} GB/s` }
}

function watchFailures(gpu: GPUDevice, commands: Commands) {
  gpu.onuncapturederror = ({ error }) => {
    commands.fail(new Error(`the GPU device refused a command: ${error.message}`))
  }
  void gpu.lost.then(({ reason, message }) => {
    if (reason === 'destroyed') return
    commands.fail(
      new UserError(
        `the GPU device was lost (${message.trim()}), probably because its memory ran out: ` +
          'lower --memory or the batch size and resume',
      ),
    )
  })
}
