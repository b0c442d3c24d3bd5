// What only the cpu device promises: the same bits for any number of threads, jobs that fail or are cut
// short without leaving anyone waiting, and its own misuse errors. Its noise workers: noise-pool.test.ts.
// Alone: npx vitest run test/device/cpu-device.test.ts

import { describe, expect, it } from 'vitest'
import { openCpu } from '../../src/device/cpu/device.ts'
import { createOps } from '../../src/device/cpu/ops.ts'
import { stableThreads } from '../../src/device/cpu/sessions.ts'
import type { Device } from '../../src/device/device.ts'
import { CAUSAL, queryGroups } from '../../src/device/packed.ts'
import { UserError } from '../../src/util/errors.ts'
import {
  filled,
  load,
  matrixOf,
  recipeOf,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { textsOf } from '../helpers/attention.ts'

async function withCpu<T>(threads: number, body: (d: Device) => Promise<T>): Promise<T> {
  const device = await openCpu({ threads })
  try {
    device.reserve(WORKLOAD)
    return await body(device)
  } finally {
    await device.close()
  }
}

describe('threads of the cpu device', () => {
  it('give the bits of one thread for every operation of a block', async () => {
    const block = async (d: Device) => {
      const [rows, cols, at] = [130, 96, { probes: 2, rows: 65 }]
      const x = filled(d, rows, cols, values(rows * cols, 1))
      const [h, y] = [0, 1].map(() => d.tensor('activations', 'h', rows, cols))
      await d.layerNorm(x, null, null, 1e-5, h!, at)
      const matrix = matrixOf('F16', cols, tilesOver(0, cols, 64), recipeOf([0.02, -0.02], 1))
      await throughSlabs(d, matrix, 1, (slot) => d.linear(h!, slot, null, y!, at))
      const sees = queryGroups(textsOf([13, 13, 13, 13, 13]), CAUSAL)
      const dims = { heads: 6, kvHeads: 6, headSize: 16, scale: 0.25 }
      await d.attention(y!, h!, y!, x, 2, sees, dims)
      await d.activation('gelu', x, at)
      const state = filled(
        d,
        rows,
        3,
        Float32Array.from({ length: rows * 3 }, (_, i) => (i % 3 ? 0 : -Infinity)),
      )
      const targets = new Uint32Array(rows).fill(3)
      await throughSlabs(d, matrix, 1, (slot) => d.crossEntropy(x, slot, targets, state, at))
      return Promise.all([d.read(x, 0, rows), d.read(state, 0, rows)])
    }
    const one = await withCpu(1, block)
    expect(await withCpu(2, block)).toEqual(one)
    expect(await withCpu(5, block)).toEqual(one)
  })

  it('are few enough for every shape of a product', async () => {
    const shapes: [number, number, number][] = [
      [64, 96, 768],
      [3, 96, 768],
      [64, 40, 500],
      [2, 700, 300],
      [1, 640, 300],
      [50, 100, 130],
      [33, 17, 1000],
      [6, 160, 200],
    ]
    const single = createOps(1)
    for (const threads of [2, 3, 8]) {
      const ops = createOps(threads)
      for (const [m, n, k] of shapes) {
        const [x, w] = [values(m * k, 1), values(n * k, 2)]
        const [a, b] = [new Float32Array(m * n), new Float32Array(m * n)]
        await single.gemm(x, w, a, { m, n, k })
        await ops.gemm(x, w, b, { m, n, k })
        expect(b).toEqual(a)
      }
      ops.close()
    }
    single.close()
    expect(stableThreads(94, 1, 2)).toBe(1)
    expect(stableThreads(1024, 768, 16)).toBe(16)
    expect(stableThreads(64, 96, 2)).toBe(1)
  })

  it('must be a positive whole number', async () => {
    await expect(openCpu({ threads: 0 })).rejects.toThrow(UserError)
    await expect(openCpu({ threads: 1.5 })).rejects.toThrow(UserError)
  })
})

describe('the noise workers', () => {
  const matrix = matrixOf('F32', 256, tilesOver(0, 512, 32), recipeOf([0.02, -0.02], 4))

  it('closing with jobs outstanding ends every wait and leaves nothing', async () => {
    const device = await openCpu({ threads: 2 })
    device.reserve(WORKLOAD)
    const slots = [0, 1].map((i) => device.slot('slots', `${i}`, matrix.bytes.length))
    const x = filled(device, 20, 256, values(20 * 256, 1))
    const y = device.tensor('activations', 'y', 20, 512)
    for (const slot of slots) await load(device, slot, matrix)
    const at = { probes: 2, rows: 10 }
    const waits = [
      device.linear(x, slots[0]!, null, y, at),
      device.linear(x, slots[1]!, null, y, at),
      device.stage(slots[1]!, 64),
      device.read(y, 0, 20),
    ].map((p) =>
      p.then(
        () => 'done',
        (e: Error) => e.message,
      ),
    )
    await device.close()
    for (const message of await Promise.all(waits)) expect(message).toMatch(/closed/)
    expect(device.ledger.total()).toBe(0)
  })

  it('an error in a worker rejects the operation that waits for it, not the next', async () => {
    await withCpu(2, async (d) => {
      const far = { ...matrix, tiles: tilesOver(2 ** 26, 32, 32) } // beyond 2^33 elements
      const slots = [0, 1].map((i) => d.slot('slots', `${i}`, matrix.bytes.length))
      const x = filled(d, 4, 256, values(4 * 256, 1))
      const y = d.tensor('activations', 'y', 4, 512)
      await load(d, slots[0]!, far)
      await load(d, slots[1]!, matrix)
      const at = { probes: 2, rows: 2 }
      await expect(d.linear(x, slots[0]!, null, y, at)).rejects.toThrow(/2\^33/)
      await d.linear(x, slots[1]!, null, y, at)
    })
  })

  it('misuse has a message: no reserve, wrong order, twice, too large', async () => {
    const device = await openCpu({ threads: 1 })
    try {
      const [a, b] = [0, 1].map((i) => device.slot('slots', `${i}`, matrix.bytes.length))
      const weights = { name: 'w', ...matrix }
      expect(() => device.commit(a!, weights)).toThrow(/reserve/)
      device.reserve(WORKLOAD)
      const x = device.tensor('activations', 'x', 4, 256)
      const y = device.tensor('activations', 'y', 4, 512)
      const at = { probes: 2, rows: 2 }
      await expect(device.linear(x, a!, null, y, at)).rejects.toThrow(/next committed/)
      device.commit(a!, weights)
      expect(() => device.commit(a!, weights)).toThrow(/twice/)
      device.commit(b!, weights)
      await expect(device.linear(x, b!, null, y, at)).rejects.toThrow(/next committed one is 0/)
      expect(() => device.reserve(WORKLOAD)).toThrow(/neither used nor discarded/)
      const short = device.crossEntropy(x, a!, Uint32Array.of(1), y, at)
      await expect(short).rejects.toThrow(/1 targets for 2x2 rows/)
      device.discard(a!) // its use has failed, so there is nothing left of it
      device.discard(b!)
      device.reserve({ ...WORKLOAD, tileElements: 100 })
      expect(() => device.commit(a!, weights)).toThrow(/reserve\(\) was told/)
      await expect(device.stage(a!, 2 ** 30)).rejects.toThrow(/bytes for slot/)
      await expect(device.read(y, 3, 2)).rejects.toThrow(/rows \[3, 5\)/)
    } finally {
      await device.close()
    }
  })
})
