// The stream without a device: order, depth, slot reuse, early close, failing reads, resident slabs
// that are read once per version, whatever the timing of the reads.
// Alone: npx vitest run test/unit/stream.test.ts

import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { Plan, Slab } from '../../scheduler/plan.ts'
import { createSlots, type Slots } from '../../scheduler/slots.ts'
import { stream, type SlabSource } from '../../scheduler/stream.ts'
import { fakeDevice, type FakeDevice } from '../helpers/fake-device.ts'
import { randomOf } from '../helpers/random.ts'

const SLAB_BYTES = 64

/** What the stream reads of a plan: slabs of two matrices; the first `resident` stay, the others go through `slots`. */
function planOf(count: number, resident: number, slots: 2 | 3): Plan {
  const ring = Math.min(slots, count - resident)
  const slabs = Array.from({ length: count }, (_, index): Slab => {
    const block = index < count / 2 ? 0 : 1
    const tile = { row0: 4 * (block ? index - Math.ceil(count / 2) : index), rows: 4 }
    const shape = { name: `w${block}`, block, cols: 4, tiles: [tile], ...tile }
    return { ...shape, index, bytes: SLAB_BYTES, resident: index < resident }
  })
  const slotBytes = ring > 0 ? SLAB_BYTES : 0
  // The stream and its slots read nothing else of a plan.
  return { slabs, slots: ring, slotBytes, residentSlabs: resident } as unknown as Plan
}

interface Setup {
  readonly made: Plan
  readonly fake: FakeDevice
  readonly slots: Slots
  readonly source: SlabSource & { version: number }
  /** Slabs whose bytes were read, in the order of the reads. */
  readonly reads: number[]
  /** Most reads in flight at once. */
  inFlight(): number
}

/** `wait` delays the read of a slab, or fails it. */
function setup(
  made: Plan,
  wait: (slab: Slab) => Promise<unknown> = async () => {},
  stagings = 3,
): Setup {
  const fake = fakeDevice(stagings)
  const reads: number[] = []
  let [now, most] = [0, 0]
  const source = {
    version: 0,
    describe(slab: Slab) {
      const { name, cols, tiles } = slab
      const recipe = { terms: [], scales: [0] }
      const weights = { name, dtype: 'F32' as const, cols, tiles, recipe }
      return { bytes: slab.bytes, readBytes: slab.bytes, version: this.version, weights }
    },
    async read(slab: Slab, into: Uint8Array) {
      expect(into.length).toBe(slab.bytes)
      reads.push(slab.index)
      most = Math.max(most, ++now)
      try {
        await wait(slab)
        into[0] = slab.index
      } finally {
        now--
      }
    },
  }
  const slots = createSlots(made, fake.device)
  return { made, fake, slots, source, reads, inFlight: () => most }
}

const open = (s: Setup, counters = { readBytes: 0, uploadBytes: 0, waitMs: 0 }) =>
  stream(s.made, s.slots, s.fake.device, s.source, counters)

/** Uses every slab as it comes; their indices, each with its own bytes in the slot. */
async function drain(s: Setup, counters?: Parameters<typeof open>[1]): Promise<number[]> {
  const seen: number[] = []
  for await (const { slab, slot } of open(s, counters)) {
    const weights = s.fake.use(slot)
    expect([weights.name, weights.tiles[0]!.row0]).toEqual([slab.name, slab.row0])
    expect(s.fake.bytesOf(slot)[0]).toBe(slab.index)
    seen.push(slab.index)
  }
  return seen
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i)

/** Fails the test if a promise of it is rejected with nobody listening. */
async function withoutUnhandled(body: () => Promise<void>): Promise<void> {
  const unhandled: unknown[] = []
  const note = (reason: unknown) => unhandled.push(reason)
  process.on('unhandledRejection', note)
  try {
    await body()
    await delay(5)
  } finally {
    process.off('unhandledRejection', note)
  }
  expect(unhandled).toEqual([])
}

describe('stream', () => {
  it('hands over all slabs in order, whatever the timing of their reads', async () => {
    for (let seed = 0; seed < 12; seed++) {
      const random = randomOf(seed)
      const count = random.whole(4, 14)
      const made = planOf(count, random.pick([0, 1, 2, count - 1, count]), random.pick([2, 3]))
      const s = setup(made, () => delay(random.pick([0, 0, 1, 3])), random.pick([1, 2]))
      expect(await drain(s)).toEqual(range(count))
      expect(s.fake.held()).toBe(0)
      expect(s.inFlight()).toBeLessThanOrEqual(made.slots || 3)
    }
  })

  it.each([2, 3] as const)('reads at most %d slabs ahead with as many slots', async (slots) => {
    const s = setup(planOf(9, 0, slots))
    const slabs = open(s)
    for (let i = 0; i < 9; i++) {
      const { value } = await slabs.next()
      await delay(2) // every read that may have started has
      expect(s.reads.length).toBe(Math.min(9, i + slots))
      s.fake.use(value!.slot)
    }
    expect(s.inFlight()).toBeLessThanOrEqual(slots)
    expect((await slabs.next()).done).toBe(true)
  })

  it('keeps a slot as it is until its slab is given back', async () => {
    const s = setup(planOf(8, 0, 2))
    const slabs = open(s)
    for (let i = 0; i < 8; i++) {
      const { value } = await slabs.next()
      const { slot } = value!
      const before = s.fake.events.length
      await delay(2)
      expect(s.fake.events.slice(before)).not.toContain(`stage ${slot.label}`)
      expect(s.fake.bytesOf(slot)[0]).toBe(i)
      s.fake.use(slot)
    }
    await slabs.return()
  })

  it('counts the bytes that it reads', async () => {
    const s = setup(planOf(6, 2, 2))
    const counters = { readBytes: 0, uploadBytes: 0, waitMs: 0 }
    await drain(s, counters)
    expect([counters.readBytes, counters.uploadBytes]).toEqual([6 * SLAB_BYTES, 6 * SLAB_BYTES])
    await drain(s, counters)
    expect([counters.readBytes, counters.uploadBytes]).toEqual([10 * SLAB_BYTES, 10 * SLAB_BYTES])
    expect(counters.waitMs).toBeGreaterThan(0)
  })

  it('reads a resident slab again only when its version has changed', async () => {
    for (const resident of [2, 6]) {
      const s = setup(planOf(6, resident, 2))
      const streamed = range(6).slice(resident)
      await drain(s)
      expect(s.reads.splice(0)).toEqual(range(6))
      expect(await drain(s)).toEqual(range(6))
      expect(s.reads.splice(0)).toEqual(streamed)
      s.source.version = 1
      await drain(s)
      expect(s.reads.splice(0).sort((a, b) => a - b)).toEqual(range(6))
      await drain(s)
      expect(s.reads).toEqual(streamed)
    }
  })

  it('drains and discards what is under way when it is closed early, at any slab', async () => {
    for (const [resident, at] of [0, 2, 6].flatMap((r) => range(7).map((i) => [r, i] as const))) {
      const s = setup(planOf(6, resident, 3), (slab) => delay(slab.index % 2), 1)
      let finished = 0
      const read = s.source.read.bind(s.source)
      s.source.read = async (slab, into) => {
        await read(slab, into)
        finished++
      }
      const slabs = open(s)
      for (let i = 0; i < at; i++) {
        const { slot } = (await slabs.next()).value!
        if (i + 1 < at) s.fake.use(slot) // the last one is left unused
      }
      await slabs.return()
      expect(s.fake.held()).toBe(0)
      expect(finished).toBe(s.reads.length)
      expect(await drain(s)).toEqual(range(6))
    }
  })

  it('surfaces a failed read where its slab is asked for, and nowhere else', async () => {
    for (const [resident, bad] of [0, 2, 6].flatMap((r) => range(6).map((i) => [r, i] as const))) {
      await withoutUnhandled(async () => {
        let broken = true
        const failing = async (slab: Slab) => {
          if (broken && slab.index >= bad) throw new Error(`read ${slab.index} failed`)
          await delay(bad % 2)
        }
        const s = setup(planOf(6, resident, 3), failing, 1 + (bad % 2))
        const seen: number[] = []
        const pass = async () => {
          for await (const { slab, slot } of open(s)) {
            s.fake.use(slot)
            seen.push(slab.index)
            await delay(1)
          }
        }
        await expect(pass()).rejects.toThrow(`read ${bad} failed`)
        expect(seen).toEqual(range(bad))
        expect(s.fake.held()).toBe(0)
        broken = false
        expect(await drain(s)).toEqual(range(6))
      })
    }
  })

  it('leaves no unhandled rejection when it is closed with a failed read ahead', async () => {
    await withoutUnhandled(async () => {
      const s = setup(planOf(6, 0, 3), async (slab) => {
        if (slab.index > 0) throw new Error('the disk is gone')
      })
      const slabs = open(s)
      s.fake.use((await slabs.next()).value!.slot)
      await delay(2)
      await slabs.return()
      expect(s.fake.held()).toBe(0)
    })
  })
})
