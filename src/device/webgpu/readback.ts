// Device to host. Reads that fit pass through one lasting buffer; a larger read, or one issued
// while another is on its way, takes a buffer of its own, charged to staging until it is done.
// Every copy is recorded at the call, so that later operations cannot overtake it.

import type { BufferAllocation, Buffers } from './buffers.ts'
import { MAP, USAGE } from './buffers.ts'
import type { Commands } from './commands.ts'
import { READBACK_BYTES } from './memory.ts'

export interface Readback {
  /** Allocates the lasting buffer, if that has not happened yet. */
  reserve(): void
  /** `bytes` bytes of `from`, whole words from byte `first` on, after all work recorded so far. */
  read(from: GPUBuffer, first: number, bytes: number): Promise<ArrayBuffer>
}

export function createReadback(commands: Commands, buffers: Buffers): Readback {
  const allocate = (label: string, bytes: number) =>
    buffers.allocate('staging', label, bytes, USAGE.mapRead | USAGE.copyDst)
  let lasting: BufferAllocation | undefined
  let busy = false
  const reserve = () => (lasting ??= allocate('readback', READBACK_BYTES))

  const fetch = async ({ buffer }: BufferAllocation, bytes: number) => {
    try {
      await commands.answer(buffer.mapAsync(MAP.read, 0, bytes))
    } catch (error) {
      commands.check() // says why: the device was lost, or out of memory
      throw new Error('a read was cut short: the device was closed', { cause: error })
    }
    const data = buffer.getMappedRange(0, bytes).slice(0)
    buffer.unmap()
    commands.check()
    return data
  }

  return {
    reserve,
    async read(from, first, bytes) {
      if (bytes === 0) return new ArrayBuffer(0)
      const shared = bytes <= READBACK_BYTES && !busy
      const target = shared ? reserve() : allocate('large read', bytes)
      if (shared) busy = true
      try {
        commands.copy(from, first, target.buffer, 0, bytes)
        commands.flush()
        return await fetch(target, bytes)
      } finally {
        if (shared) busy = false
        else buffers.release(target)
      }
    },
  }
}
