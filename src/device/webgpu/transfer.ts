// How a slab gets from the disk into its slot. Two strategies behind one interface, chosen once:
//   ring    reads go straight into mapped staging buffers, a GPU copy moves them on (discrete GPUs,
//           Metal, D3D12)
//   direct  reads go into plain host memory, writeBuffer copies it into a slot that is idle and
//           that the GPU never writes: Dawn then does one memcpy on this thread and no GPU copy (shared
//           memory on Vulkan, software adapters)
// Both hold `stages` lanes of `laneBytes`; a lane is taken at stage and free again after the
// commit. Facts: Dawn's native/vulkan/BufferVk.cpp, Buffer::UploadData.

import type { Ledger } from '../ledger.ts'
import type { Allocation, Buffers } from './buffers.ts'
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
  readonly laneBytes: number
  /** Memory for `bytes` bytes of `slot`, when a lane is free and batch `lastUse` is over. */
  stage(slot: GPUBuffer, bytes: number, lastUse: number): Promise<Staged>
  /** Gives the lanes back; waiting stages reject. */
  close(): void
}

interface Lanes {
  readonly stages: number
  readonly laneBytes: number
}

/** First come, first served over a fixed set of lanes. */
function createQueue<Lane>(lanes: readonly Lane[]) {
  const free = [...lanes]
  let closed = false
  const waiting: { resolve: (lane: Lane) => void; reject: (error: Error) => void }[] = []
  return {
    take: () =>
      new Promise<Lane>((resolve, reject) => {
        const lane = free.shift()
        if (lane === undefined) waiting.push({ resolve, reject })
        else resolve(lane)
      }),
    give(lane: Lane) {
      const next = waiting.shift()
      if (next) next.resolve(lane)
      else free.push(lane)
    },
    close() {
      closed = true
      for (const { reject } of waiting.splice(0)) reject(cutShort())
    },
    /** Throws when the lanes went away during a wait. */
    check() {
      if (closed) throw cutShort()
    },
  }
}

const cutShort = () => new Error('the upload was cut short: the device was closed')

export function createRing(commands: Commands, buffers: Buffers, lanes: Lanes): Transfer {
  const usage = USAGE.mapWrite | USAGE.copySrc
  const made: Allocation[] = []
  for (let i = 0; i < lanes.stages; i++) {
    made.push(buffers.allocate('staging', `upload ${i}`, lanes.laneBytes, usage))
  }
  const queue = createQueue(made)
  return {
    laneBytes: lanes.laneBytes,
    async stage(slot, bytes) {
      const lane = await queue.take()
      const { buffer } = lane
      try {
        commands.check() // a lane that comes back after a failure must not be mapped again
        // The map resolves when the copy out of this lane is over, so it must have been submitted.
        // The slot needs no wait: the copy into it comes after its last use in the queue.
        commands.flush()
        await commands.answer(buffer.mapAsync(MAP.write, 0, alignBytes(bytes)))
        commands.check()
      } catch (error) {
        queue.give(lane)
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
          queue.give(lane)
        },
        discard() {
          if (buffer.mapState === 'mapped') buffer.unmap()
          queue.give(lane)
        },
      }
    },
    close() {
      queue.close()
      for (const lane of made) buffers.release(lane)
    },
  }
}

export function createDirect(commands: Commands, ledger: Ledger, lanes: Lanes): Transfer {
  const made = Array.from({ length: lanes.stages }, () => new ArrayBuffer(lanes.laneBytes))
  const totalBytes = lanes.stages * lanes.laneBytes
  ledger.charge('staging', totalBytes)
  const queue = createQueue(made)
  return {
    laneBytes: lanes.laneBytes,
    async stage(slot, bytes, lastUse) {
      const lane = await queue.take()
      try {
        await commands.over(lastUse)
        queue.check()
      } catch (error) {
        queue.give(lane)
        throw error
      }
      return {
        memory: new Uint8Array(lane, 0, bytes),
        commit() {
          commands.gpu.queue.writeBuffer(slot, 0, lane, 0, alignBytes(bytes))
          queue.give(lane)
        },
        discard: () => queue.give(lane),
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

export const fasterStrategy = (rate: number): Strategy => (rate > DIRECT_RATE ? 'direct' : 'ring')
