// The stream of weights as an async generator: slabs in plan order, each committed on the device
// when it is handed over. Reading, upload and compute overlap behind it; order and results never
// depend on timing. The contract is in README.md beside this file.

import PQueue from 'p-queue'
import type { Device, Slot, Weights } from '../src/device/device.ts'
import type { Plan, Slab } from './plan.ts'
import type { Slots } from './slots.ts'

/** Where slabs come from; src/engine/slabs.ts makes it of a run's weights. */
export interface SlabSource {
  /**
   * What the slab's bytes are now: their number, of how many bytes they are made, a version that
   * changes when they do, the recipe.
   */
  describe(slab: Slab): { bytes: number; readBytes: number; version: number; weights: Weights }
  /** Fills `into` (exactly `bytes` long) with the slab. */
  read(slab: Slab, into: Uint8Array): Promise<void>
}

export interface StreamedSlab {
  readonly slab: Slab
  readonly slot: Slot
}

/** Slabs committed ahead when all are resident, so that the device can prepare the next ones. */
const RESIDENT_AHEAD = 3

/** Bytes moved and time lost, added up over the streams of a run. */
export interface StreamCounters {
  readBytes: number
  uploadBytes: number
  /** Time the consumer waited for a slab that was not there yet, ms. */
  waitMs: number
}

/**
 * All slabs of the plan in order. A slab's slot is valid until the next one is asked for.
 * Closing the generator early (break, throw, return) drains what is in flight and discards it.
 */
export async function* stream(
  plan: Plan,
  slots: Slots,
  device: Device,
  source: SlabSource,
  counters: StreamCounters,
): AsyncGenerator<StreamedSlab, void, void> {
  const { slabs } = plan
  const depth = plan.slots || RESIDENT_AHEAD
  const reads = new PQueue({ concurrency: depth })
  const arrivals: Promise<void>[] = []
  let open = true
  let committed: Promise<void> = Promise.resolve()

  /** Stages and reads slab i, then commits it after slab i - 1 (the device wants commit order). */
  const start = (i: number) => {
    const slab = slabs[i]!
    const slot = slots.of(slab)
    const { bytes, readBytes, version, weights } = source.describe(slab)
    const staged = slots.holds(slab, version)
      ? Promise.resolve(false)
      : reads.add(async () => {
          if (!open) return false
          slots.note(slab, null)
          await source.read(slab, await device.stage(slot, bytes))
          counters.readBytes += readBytes
          counters.uploadBytes += bytes
          return true
        })
    const before = committed
    committed = (async () => {
      // Both must end before anything is decided, else a failed neighbour leaves a read running.
      const [previous, mine] = await Promise.allSettled([before, staged])
      const failed = [mine, previous].find((each) => each.status === 'rejected')
      let usable = false
      try {
        if (failed) throw failed.reason
        if (!open) return
        device.commit(slot, weights)
        usable = true
      } finally {
        // At once: a later slab of this pass may be waiting for the staging memory.
        if (!usable) device.discard(slot)
      }
      if (mine.status === 'fulfilled' && mine.value) slots.note(slab, version)
    })()
    committed.catch(() => {}) // reported when the slab is asked for, or in the drain below
    arrivals[i] = committed
  }

  let started = 0
  let yielded = 0
  try {
    for (let i = 0; i < slabs.length; i++) {
      // Slab j may start once the slab that used its slot before has been given back.
      while (started < slabs.length && started < i + depth) start(started++)
      const asked = performance.now()
      await arrivals[i]
      counters.waitMs += performance.now() - asked
      yielded = i + 1
      yield { slab: slabs[i]!, slot: slots.of(slabs[i]!) }
    }
  } finally {
    open = false
    await Promise.allSettled(arrivals)
    for (let i = Math.max(0, yielded - 1); i < started; i++) device.discard(slots.of(slabs[i]!))
  }
}
