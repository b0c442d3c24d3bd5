// How a slab gets from the disk into its slot. Two strategies behind one interface, chosen once:
//   ring    reads go straight into mapped staging buffers, a GPU copy moves them on (discrete GPUs,
//           Metal, D3D12)
//   direct  reads go into plain host memory, writeBuffer copies it into a slot that is idle and
//           that the GPU never writes: Dawn then does one memcpy on this thread and no GPU copy (shared
//           memory on Vulkan, software adapters)
// Both hold `stages` stages of `stageBytes`, each of which one slab takes until its commit.
// Facts: Dawn's native/vulkan/BufferVk.cpp, Buffer::UploadData.

import type { Ledger } from '../ledger.ts'
import type { BufferAllocation, Buffers } from './buffers.ts'
import { MAP, USAGE } from './buffers.ts'
import type { Commands } from './commands.ts'
import { alignBytes } from './memory.ts'

export type Strategy = 'ring' | 'direct'

/** A slab on its way: exactly one of commit and discard is called. */
export interface Staged {
  readonly memory: Uint8Array
  /** Sends the bytes to the slot, in order with the recorded commands. */
  commit(): void
  discard(): void
}

export interface Transfer {
  /** Largest slab. */
  readonly stageBytes: number
  /** Memory for `bytes` bytes of `slot`, when a stage is free and batch `lastUse` is over. */
  stage(slot: GPUBuffer, bytes: number, lastUse: number): Promise<Staged>
  /** Gives the memory back; waiting calls of stage reject. */
  close(): void
}

interface Stages {
  readonly stages: number
  readonly stageBytes: number
}

/** First come, first served over a fixed set of stages. */
function createQueue<Stage>(stages: readonly Stage[]) {
  const free = [...stages]
  let closed = false
  const waiting: { resolve: (stage: Stage) => void; reject: (error: Error) => void }[] = []
  return {
    take: () =>
      new Promise<Stage>((resolve, reject) => {
        const stage = free.shift()
        if (stage === undefined) waiting.push({ resolve, reject })
        else resolve(stage)
      }),
    give(stage: Stage) {
      const next = waiting.shift()
      if (next) next.resolve(stage)
      else free.push(stage)
    },
    close() {
      closed = true
      for (const { reject } of waiting.splice(0)) reject(cutShort())
    },
    /** Throws when the stages went away during a wait. */
    check() {
      if (closed) throw cutShort()
    },
  }
}

const cutShort = () => new Error('the upload was cut short: the device was closed')

/** Strategy `ring`: mapped staging buffers, copied by the GPU. */
export function createRing(commands: Commands, buffers: Buffers, sizes: Stages): Transfer {
  const usage = USAGE.mapWrite | USAGE.copySrc
  const made: BufferAllocation[] = []
  for (let i = 0; i < sizes.stages; i++) {
    made.push(buffers.allocate('staging', `upload ${i}`, sizes.stageBytes, usage))
  }
  const queue = createQueue(made)
  return {
    stageBytes: sizes.stageBytes,
    async stage(slot, bytes) {
      const stage = await queue.take()
      const { buffer } = stage
      try {
        commands.check() // a stage that comes back after a failure must not be mapped again
        // The map resolves when the copy out of this stage is over, so it must have been submitted.
        // The slot needs no wait: the copy into it comes after its last use in the queue.
        commands.flush()
        await commands.answer(buffer.mapAsync(MAP.write, 0, alignBytes(bytes)))
        commands.check()
      } catch (error) {
        queue.give(stage)
        queue.check()
        commands.check() // says why: the device was lost, or out of memory
        throw error
      }
      return {
        memory: new Uint8Array(buffer.getMappedRange(0, alignBytes(bytes)), 0, bytes),
        commit() {
          buffer.unmap()
          commands.copy(buffer, 0, slot, 0, alignBytes(bytes))
          commands.flush()
          queue.give(stage)
        },
        discard() {
          if (buffer.mapState === 'mapped') buffer.unmap()
          queue.give(stage)
        },
      }
    },
    close() {
      queue.close()
      for (const stage of made) buffers.release(stage)
    },
  }
}

/** Strategy `direct`: plain memory, copied by writeBuffer. */
export function createDirect(commands: Commands, ledger: Ledger, sizes: Stages): Transfer {
  const made = Array.from({ length: sizes.stages }, () => new ArrayBuffer(sizes.stageBytes))
  const totalBytes = sizes.stages * sizes.stageBytes
  ledger.charge('staging', totalBytes)
  const queue = createQueue(made)
  return {
    stageBytes: sizes.stageBytes,
    async stage(slot, bytes, lastUse) {
      const stage = await queue.take()
      try {
        await commands.over(lastUse)
        queue.check()
      } catch (error) {
        queue.give(stage)
        throw error
      }
      return {
        memory: new Uint8Array(stage, 0, bytes),
        commit() {
          commands.gpu.queue.writeBuffer(slot, 0, stage, 0, alignBytes(bytes))
          queue.give(stage)
        },
        discard: () => queue.give(stage),
      }
    },
    close() {
      queue.close()
      ledger.release('staging', totalBytes)
    },
  }
}

const PROBE_BYTES = 8 * 2 ** 20

/** Bytes per second above which writeBuffer must be a plain memcpy; staging reaches about 1e9. */
const DIRECT_RATE = 4 * 2 ** 30

/** Bytes per second of writeBuffer into an idle buffer that the GPU has not written. */
export async function measureDirect(commands: Commands): Promise<number> {
  const { gpu } = commands
  const usage = USAGE.storage | USAGE.copyDst
  const buffer = gpu.createBuffer({ label: 'probe', size: PROBE_BYTES, usage })
  const data = new ArrayBuffer(PROBE_BYTES)
  let bestSeconds = Infinity
  for (let i = 0; i < 5; i++) {
    const start = performance.now()
    gpu.queue.writeBuffer(buffer, 0, data)
    // The first write pays for touching fresh pages.
    if (i > 0) bestSeconds = Math.min(bestSeconds, (performance.now() - start) / 1000)
  }
  buffer.destroy()
  gpu.queue.submit([])
  await commands.answer(gpu.queue.onSubmittedWorkDone())
  return PROBE_BYTES / bestSeconds
}

/** @param rate of writeBuffer, in bytes per second */
export const fasterStrategy = (rate: number): Strategy => (rate > DIRECT_RATE ? 'direct' : 'ring')
