// The noise workers of the cpu device: the bits of a tile however it is parted among them, and workers and
// jobs that fail or end without leaving anyone waiting.
// Alone: npx vitest run test/device/noise-pool.test.ts

import type { Worker } from 'node:worker_threads'
import { describe, expect, it, vi } from 'vitest'
import { createOps } from '../../src/device/cpu/ops.ts'
import { NoisePool, type PrepareJob } from '../../src/device/cpu/noise-pool.ts'
import type { Noise, Recipe } from '../../src/noise/distributions.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'
import { type DType, convertElements } from '../../src/util/dtypes.ts'
import { recipeOf, values } from '../helpers/devices.ts'

/** Every worker that is started, so that one can be killed. */
const started = vi.hoisted((): Worker[] => [])
vi.mock('../../src/util/threads.ts', async (original) => {
  const actual = await original<typeof import('../../src/util/threads.ts')>()
  return {
    startWorker(...args: Parameters<typeof actual.startWorker>) {
      const worker = actual.startWorker(...args)
      started.push(worker)
      return worker
    },
  }
})

const neverWiden = () => Promise.reject(new Error('nothing is only widened here'))
const kernel = createNoiseKernel()

function jobOf(
  dtype: DType,
  first: number,
  count: number,
  terms: number,
  noise: Noise = 'gaussian',
): PrepareJob {
  const weights = convertElements(new Uint8Array(values(count, 3).buffer), 'F32', dtype)
  const raw = new Uint8Array(new SharedArrayBuffer(weights.length))
  raw.set(weights)
  return { raw, dtype, first, count, recipe: recipeOf([0.02, -0.02], terms, 1, noise) }
}

const expectedOf = ({ raw, dtype, first, count, recipe }: PrepareJob): Float32Array[] => {
  const versions = recipe.scales.map(() => new Float32Array(count))
  kernel.apply(raw, dtype, first, recipe, versions)
  return versions
}

describe('the noise workers', () => {
  it('part tiles of any length and place among them, to the bits of one', async () => {
    const jobs = [
      jobOf('F32', 0, 10_000, 1),
      jobOf('F16', 70_001, 4_097, 2),
      jobOf('BF16', 12_288, 2_048, 0),
      jobOf('F32', 5, 3, 1),
      jobOf('F16', 0, 1_024, 0),
      jobOf('F32', 70_001, 9_000, 2, 'rademacher'),
    ]
    for (const workers of [1, 2, 3, 8]) {
      const pool = new NoisePool(workers, neverWiden)
      try {
        pool.reserve(4, 10_000)
        const prepared = jobs.map((job) => pool.submit(job))
        for (const [i, job] of jobs.entries()) {
          const versions = await prepared[i]!.versions
          await prepared[i]!.read
          expect(versions.map((v) => v.slice(0, job.count))).toEqual(expectedOf(job))
          prepared[i]!.release()
        }
      } finally {
        await pool.close()
      }
    }
  })

  it('make a new burst right after the room was replaced under one that nobody wants', async () => {
    const pool = new NoisePool(2, neverWiden)
    try {
      pool.reserve(4, 2 ** 16)
      const slow = pool.submit(jobOf('F32', 0, 2 ** 16, 40))
      slow.release()
      pool.reserve(2, 5_000)
      const job = jobOf('F32', 9, 5_000, 1)
      const made = pool.submit(job)
      expect((await made.versions).map((v) => v.slice(0, job.count))).toEqual(expectedOf(job))
      expect((await slow.versions).length).toBe(2)
    } finally {
      await pool.close()
    }
  })

  it('a tile that fails rejects alone, not the other one of its burst', async () => {
    const pool = new NoisePool(2, neverWiden)
    try {
      pool.reserve(4, 5_000)
      const hold = pool.submit(jobOf('F32', 0, 5_000, 0))
      const far = pool.submit(jobOf('F32', 2 ** 33 - 4_000, 5_000, 0)) // its second part is beyond 2^33
      const good = pool.submit(jobOf('F32', 0, 5_000, 0))
      hold.release()
      await expect(far.versions).rejects.toThrow(/2\^33/)
      expect(await good.versions).toHaveLength(2)
      await far.read
    } finally {
      await pool.close()
    }
  })

  it('a worker that dies rejects all that is outstanding and all that comes', async () => {
    const pool = new NoisePool(1, neverWiden)
    pool.reserve(2, 16)
    const raw = new Uint8Array(new SharedArrayBuffer(64))
    const recipe = { terms: [], scales: [0] }
    const job = { raw, dtype: 'F32' as const, first: 0, count: 16, recipe }
    const [term] = recipeOf([0], 1).terms
    const slow: Recipe = { ...recipe, noise: 'gaussian', terms: Array(20_000).fill(term) }
    const first = pool.submit(job)
    expect((await first.versions)[0]).toEqual(new Float32Array(16))
    first.release()
    const [running, waiting] = [pool.submit({ ...job, recipe: slow }), pool.submit(job)]
    const lost = pool.submit(job) // there are two buffers only, so it waits for one
    await started.at(-1)!.terminate()
    for (const outstanding of [running, waiting, lost]) {
      await expect(outstanding.versions).rejects.toThrow(/noise worker .* ended/)
      await outstanding.read
    }
    await expect(pool.submit(job).versions).rejects.toThrow(/noise worker .* ended/)
    await pool.close()
  })

  it('f16 without noise or updates is widened by the library, to the bits of the workers', async () => {
    const ops = createOps(2)
    let widened = 0
    const pool = new NoisePool(1, (x, y) => (widened++, ops.widen(x, x.length, 0, y, y.length)))
    try {
      const count = 2 ** 16
      pool.reserve(3, count)
      const raw = new Uint8Array(new SharedArrayBuffer(2 * count))
      new Uint16Array(raw.buffer).set(Uint16Array.from({ length: count }, (_, i) => i))
      const job = { raw, dtype: 'F16' as const, first: 0, count }
      const of = async (scales: number[]) => {
        const made = pool.submit({ ...job, recipe: { terms: [], scales } })
        const [first] = await made.versions
        made.release()
        return first!.map((value) => (Number.isNaN(value) ? 1 : value)) // of a NaN any bits will do
      }
      const [byLibrary, byWorker] = [await of([0]), await of([0, 0])]
      expect(widened).toBe(1)
      const bits = (values: Float32Array) => Buffer.from(values.buffer).toString('hex')
      expect(bits(byLibrary) === bits(byWorker)).toBe(true)
      expect([byLibrary[1], byLibrary[0x7bff], byLibrary[0xfc00]]).toEqual([
        2 ** -24,
        65504,
        -Infinity,
      ])
    } finally {
      await pool.close()
      ops.close()
    }
  })

  it('a widening that fails rejects its own tile; one that outlives the pool is waited for', async () => {
    let end!: () => void
    const widenings = [
      () => Promise.reject(new Error('no memory')),
      () => new Promise<void>((resolve) => (end = resolve)),
    ]
    const pool = new NoisePool(1, () => widenings.shift()!())
    pool.reserve(2, 16)
    const raw = new Uint8Array(new SharedArrayBuffer(32))
    const recipe = { terms: [], scales: [0] }
    const job = { raw, dtype: 'F16' as const, first: 0, count: 16, recipe }
    const failing = pool.submit(job)
    await expect(failing.versions).rejects.toThrow(/no memory/)
    failing.release()
    const running = pool.submit(job)
    const order: string[] = []
    const closed = pool.close().then(() => order.push('closed'))
    await expect(running.versions).rejects.toThrow(/closed/)
    order.push('ended')
    end()
    await closed
    expect(order).toEqual(['ended', 'closed'])
  })
})
