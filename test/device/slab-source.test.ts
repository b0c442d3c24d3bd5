// How a resident slab is kept: on a device that prefers it, as f32 for factored methods where its slot
// has the room, at the bits of slabs that stream in their file's dtype. On each device.
// Alone: npx vitest run test/device/slab-source.test.ts

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { JournalEntry } from '../../src/run/journal.ts'
import { openDevices } from '../helpers/devices.ts'
import { onFresh, openRun, syntheticBatch, trainSteps, type RunOptions } from '../helpers/runs.ts'

const F16 = join(fileURLToPath(new URL('../fixtures/', import.meta.url)), 'layouts/f16')
const TRAINING = {
  batches: [0, 1, 2].map((i) => [syntheticBatch(2, 8, 60, i)]),
  lr: 1e-3,
  eps: 1e-3,
  weightDecay: 0,
}

describe.each(openDevices())('resident slabs on $name', (test) => {
  /** Journal and traffic of three steps. */
  const run = async (options: RunOptions) => {
    let result = { journal: [] as JournalEntry[], readBytes: 0, uploadBytes: 0, prefersF32: false }
    await onFresh(test, async (on) => {
      const engine = await openRun(on, F16, options)
      try {
        const journal = await trainSteps(engine, TRAINING)
        const { readBytes, uploadBytes } = engine.counters
        result = { journal, readBytes, uploadBytes, prefersF32: on.device.prefersF32 }
      } finally {
        await engine.close()
      }
    })
    return result
  }

  it.each(['lozo', 'kronzo'])('%s: read once, in the bits of streamed ones', async (method) => {
    const streamed = await run({ method, resident: 'none' })
    const resident = await run({ method, resident: 'all' })
    expect(resident.journal).toEqual(streamed.journal)
    expect(resident.readBytes * 3).toBe(streamed.readBytes)
    const widened = resident.prefersF32 ? 2 : 1
    expect(resident.uploadBytes).toBe(widened * resident.readBytes)
    expect(streamed.uploadBytes).toBe(streamed.readBytes)
  })

  it('stays in the dtype of its file where noise is added at every use, or the slot is no larger', async () => {
    for (const options of [{ replayWindow: 8 }, { method: 'lozo', folds: false }]) {
      const { readBytes, uploadBytes } = await run({ ...options, resident: 'all' })
      expect(uploadBytes).toBe(readBytes)
    }
  })
})
