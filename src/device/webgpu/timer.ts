// When operations took place, by the adapter's own clock: each records passes of its own, which
// write a timestamp where they begin and where they end. A batch's timestamps are read back behind
// it; nothing waits for them but what waits for the batch. Only a device opened for it has a timer.
//
// Its buffers are of 512 bytes, one for each batch on its way, and are no part of the ledger: they go
// with the device, and a traced run is to have the peak that `zo2 plan` predicts.

import { maxOf } from '../../util/extremes.ts'
import type { Device } from '../device.ts'
import { MAP, USAGE } from './buffers.ts'
import { BATCH, type Commands } from './commands.ts'
import { hurryPolling } from './node.ts'

type Measure = NonNullable<Device['measure']>

/** A pass has one dispatch at least, so that a batch has no more passes than commands. */
const QUERIES = 2 * BATCH
const QUERY_BYTES = 8

/** Empty batches measured at the start, of which one is reported at once. */
const CALIBRATIONS = 16

/** Something measured; times are ms of the adapter's clock. */
interface Work {
  readonly done: (startMs: number, endMs: number) => void
  startMs: number
  endMs: number
  /** Passes whose timestamps are not there yet. */
  awaited: number
  issued: boolean
}

const work = (done: Work['done'] = () => {}): Work => {
  return { done, startMs: Infinity, endMs: -Infinity, awaited: 0, issued: false }
}

/** Has all passes of `commands` measured from now on. The device needs `timestamp-query`. */
export async function createTimer(commands: Commands): Promise<Measure> {
  const { gpu } = commands
  const queries = gpu.createQuerySet({ label: 'timer', type: 'timestamp', count: QUERIES })
  const memory = (usage: number) =>
    gpu.createBuffer({ label: 'timestamps', size: QUERIES * QUERY_BYTES, usage })
  const resolved = memory(USAGE.queryResolve | USAGE.copySrc)
  const idle: GPUBuffer[] = []
  const clock = createClock()
  let current: Work | undefined
  /** Of the batch being recorded, in order. */
  let passes: Work[] = []

  const report = (each: Work) => {
    if (!each.issued || each.awaited > 0 || each.endMs < each.startMs) return
    each.done(...clock.hostTimes(each.startMs, each.endMs))
  }
  const read = async (buffer: GPUBuffer, batch: readonly Work[]) => {
    let times: Float64Array
    try {
      await commands.answer(buffer.mapAsync(MAP.read))
      times = clock.read(new BigUint64Array(buffer.getMappedRange()), 2 * batch.length)
    } catch {
      return // a device that failed says so elsewhere
    }
    buffer.unmap()
    idle.push(buffer)
    batch.forEach((each, i) => {
      each.startMs = Math.min(each.startMs, times[2 * i]!)
      each.endMs = Math.max(each.endMs, times[2 * i + 1]!)
      each.awaited--
    })
    for (const each of new Set(batch)) report(each)
  }
  const timer = {
    pass(): GPUComputePassDescriptor | undefined {
      if (!current) return undefined
      const first = 2 * passes.length
      passes.push(current)
      current.awaited++
      const [beginningOfPassWriteIndex, endOfPassWriteIndex] = [first, first + 1]
      return {
        timestampWrites: { querySet: queries, beginningOfPassWriteIndex, endOfPassWriteIndex },
      }
    },
    collect(encoder: GPUCommandEncoder): (() => Promise<void>) | undefined {
      if (passes.length === 0) return undefined
      const [batch, count] = [passes, 2 * passes.length]
      passes = []
      const buffer = idle.pop() ?? memory(USAGE.mapRead | USAGE.copyDst)
      encoder.resolveQuerySet(queries, 0, count, resolved, 0)
      encoder.copyBufferToBuffer(resolved, 0, buffer, 0, count * QUERY_BYTES)
      return () => read(buffer, batch)
    },
  }

  await hurryPolling(async () => {
    current = work()
    for (let i = 0; i < CALIBRATIONS; i++) {
      const encoder = gpu.createCommandEncoder()
      encoder.beginComputePass(timer.pass()).end()
      const collect = timer.collect(encoder)
      gpu.queue.submit([encoder.finish()])
      await collect?.()
    }
    current = undefined
  })
  commands.timer = timer

  return async (run, done) => {
    commands.endPass()
    const mine = (current = work(done))
    try {
      await run()
    } finally {
      commands.endPass()
      current = undefined
      mine.issued = true
      report(mine)
    }
  }
}

/**
 * From the adapter's clock to performance.now(). What lies between them is taken to be the smallest
 * difference seen between a batch's last timestamp and the moment at which the batch was reported
 * done. Nothing is reported before it is done, so that this is never less than the truth, by which no
 * span ends after the host saw its end; and the calibration's reports are late by some 30 us.
 */
function createClock() {
  let origin: bigint | undefined
  let betweenMs = Infinity
  let last = { endMs: -Infinity, hostMs: -Infinity }
  return {
    /** Timestamps of a batch that is done by now, in ms since the first one. */
    read(timestamps: BigUint64Array, count: number): Float64Array {
      const now = performance.now()
      origin ??= timestamps[0]!
      const start = origin
      const times = Float64Array.from({ length: count }, (_, i) => {
        return Number(timestamps[i]! - start) / 1e6
      })
      betweenMs = Math.min(betweenMs, now - maxOf(times))
      return times
    },
    hostTimes(startMs: number, endMs: number): [startMs: number, endMs: number] {
      // What began after the end of the one before must not overlap it because the clock was mended.
      const earliest = startMs >= last.endMs ? last.hostMs : -Infinity
      const start = Math.max(startMs + betweenMs, earliest)
      const end = Math.max(endMs + betweenMs, start)
      if (endMs > last.endMs) last = { endMs, hostMs: end }
      return [start, end]
    },
  }
}
