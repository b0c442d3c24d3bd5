// Every GPU buffer of the device: made here, charged to the ledger here, given back here. An
// allocation that fails is reported at the next call, because WebGPU answers later.

import { UserError } from '../../util/errors.ts'
import type { Category, Ledger } from '../ledger.ts'
import type { Commands } from './commands.ts'

/** GPUBufferUsage by name; the package does not put the constants into the global scope. */
export const USAGE = {
  mapRead: 1,
  mapWrite: 2,
  copySrc: 4,
  copyDst: 8,
  storage: 128,
  queryResolve: 512,
} as const

/** GPUMapMode. */
export const MAP = { read: 1, write: 2 } as const

export interface BufferAllocation {
  readonly buffer: GPUBuffer
  readonly label: string
  readonly bytes: number
  readonly category: Category
}

export interface Buffers {
  /** `bytes` is a multiple of 4. UserError when the adapter cannot bind that much at once. */
  allocate(category: Category, label: string, bytes: number, usage: number): BufferAllocation
  release(allocation: BufferAllocation): void
  releaseAll(): void
}

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

export function createBuffers(commands: Commands, ledger: Ledger, maxBytes: number): Buffers {
  const { gpu } = commands
  const live = new Set<BufferAllocation>()
  const buffers: Buffers = {
    allocate(category, label, bytes, usage) {
      if (bytes > maxBytes) {
        throw new UserError(
          `${label} needs ${mib(bytes)} in one buffer and this adapter allows ${mib(maxBytes)}: ` +
            'use a smaller batch, fewer tokens or smaller slabs',
        )
      }
      const buffer = commands.guard(
        () => gpu.createBuffer({ label, size: bytes, usage }),
        (message) =>
          new UserError(
            `the adapter has no memory for ${label} (${mib(bytes)}, with ` +
              `${mib(ledger.total())} in use): lower --memory or the batch size (${message})`,
          ),
      )
      ledger.charge(category, bytes)
      const allocation = { buffer, label, bytes, category }
      live.add(allocation)
      return allocation
    },
    release(allocation) {
      if (!live.delete(allocation)) return
      commands.forget(allocation.buffer)
      allocation.buffer.destroy()
      gpu.queue.submit([]) // Dawn gives destroyed memory back at a submit only
      ledger.release(allocation.category, allocation.bytes)
    },
    releaseAll() {
      for (const allocation of live) buffers.release(allocation)
    },
  }
  return buffers
}
