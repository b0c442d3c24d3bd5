// What only the cpu device promises of factored addends and shared weights: the same bits for any
// number of threads and wherever a slab's bytes are, and its own misuse errors.
// Values against f64: device-factored.test.ts. Alone: npx vitest run test/device/cpu-products.test.ts

import { describe, expect, it } from 'vitest'
import { project, runsOf, shareOf } from '../../src/device/cpu/addends.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import { createOps, type CpuOps } from '../../src/device/cpu/ops.ts'
import type { Addend, Device } from '../../src/device/device.ts'
import {
  filled,
  load,
  matrixOf,
  recipeOf,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'

describe('threads of the cpu device', () => {
  /** y = start + x w of a tile, rows of 3 probes; one kind of start after the other. */
  async function started(ops: CpuOps, rows: number, [n, k, row0]: readonly number[]) {
    const [N, at, R] = [60, { probes: 3, rows }, 3 * rows]
    const [tile, x, w] = [{ row0: row0!, rows: n! }, values(R * k!, 5), values(n! * k!, 6)]
    const kron = { m1: 5, m2: 12, n1: k! / 7, n2: 7, terms: 2 }
    const addends: Addend[] = [
      {
        kind: 'low-rank',
        rank: 150,
        right: values(150 * k!, 1),
        left: values(N * 150, 2),
        scales: values(450, 3),
      },
      { kind: 'kronecker', ...kron, right: values(168, 1), left: values(3 * 5 * 2 * kron.n1, 2) },
    ]
    const scratch = {
      projection: new Float32Array(R * Math.max(153, 24 * kron.n1)),
      factors: new Float32Array(2 ** 18),
      blocks: new Float32Array(R * (n! + 24)),
    }
    const found: Float32Array[] = []
    for (const addend of addends) {
      await project(ops, runsOf(at, true, Infinity), async () => x, addend, at, scratch)
      const share = shareOf(addend, tile, { data: values(3 * N, 4), cols: N }, at, scratch)
      for (const run of runsOf(at, true, Infinity)) {
        found.push(new Float32Array(R * n!))
        await share.begin(ops, run, found.at(-1)!)
        await ops.gemm(x, w, found.at(-1)!, { m: R, n: n!, k: k! }, { start: 'there' })
      }
    }
    found.push(values(R * n!, 7))
    const options = { start: 'there', transposed: true } as const
    await ops.gemm(x, w, found.at(-1)!, { m: R, n: n!, k: k! }, options)
    return found
  }

  it('are few enough for addends and transposed matrices', async () => {
    const all = [1, 2, 3, 8].map((threads) => createOps(threads))
    const shapes = [
      [60, 49, 0],
      [60, 700, 0],
      [17, 350, 20],
      [1, 140, 33],
      [12, 7, 12],
    ]
    for (const rows of [1, 2, 31]) {
      for (const shape of shapes) {
        const [one, ...others] = await Promise.all(all.map((ops) => started(ops, rows, shape)))
        for (const found of others) expect(found).toEqual(one)
      }
    }
    for (const ops of all) ops.close()
  })
})

async function withCpu(body: (d: Device) => Promise<void>): Promise<void> {
  const device = await openCpu({ threads: 2 })
  try {
    device.reserve(WORKLOAD)
    await body(device)
  } finally {
    await device.close()
  }
}

describe('slots of the cpu device', () => {
  it('give the same products whether bytes are used in place or through workers', async () => {
    await withCpu(async (d) => {
      const plain = matrixOf('F32', 64, tilesOver(0, 100, 40), { terms: [], scales: [0] })
      const noisy = { ...plain, recipe: recipeOf([0.02, -0.02], 1) }
      const x = filled(d, 20, 64, values(20 * 64, 1))
      const y = d.tensor('activations', 'y', 20, 100)
      const slot = d.slot('resident', 'w', plain.bytes.length)
      const at = { probes: 2, rows: 10 }
      const use = async (m: typeof plain, staged: boolean) => {
        if (staged) await load(d, slot, m)
        else d.commit(slot, { name: 'w', ...m })
        await d.linear(x, slot, null, y, at)
        return d.read(y, 0, 20)
      }
      const expected = [await use(noisy, true), await use(plain, false)]
      expect(expected[0]).not.toEqual(expected[1])
      for (const staged of [false, true, false]) {
        expect(await use(plain, staged)).toEqual(expected[1])
        expect(await use(noisy, staged)).toEqual(expected[0])
      }
    })
  })
})

describe('addends of the cpu device', () => {
  it('are projected first, for the same rows, and not beyond what was reserved', async () => {
    await withCpu(async (d) => {
      const matrix = matrixOf('F32', 8, tilesOver(0, 12, 12), { terms: [], scales: [0] })
      const slot = d.slot('slots', 'w', matrix.bytes.length)
      const [x, y] = [filled(d, 4, 8, values(32, 1)), filled(d, 4, 12, values(48, 2))]
      const [one, two] = [1, 2].map((probes): Addend => ({
        kind: 'low-rank',
        rank: 1,
        right: values(8, 1),
        left: values(12, 2),
        scales: values(probes, 3),
      }))
      const use = async (addend: Addend, probes: number, rows: number) => {
        await load(d, slot, matrix)
        await d.linear(x, slot, null, y, { probes, rows }, { addend })
      }
      await expect(use(one!, 1, 4)).rejects.toThrow(/project\(\) comes before/)
      await d.project(x, one!, { probes: 1, rows: 4 })
      await use(one!, 1, 4)
      await expect(use(one!, 1, 3)).rejects.toThrow(/project\(\) comes before/)
      await expect(use(two!, 2, 2)).rejects.toThrow(/project\(\) comes before/)
      d.reserve({ ...WORKLOAD, addendElements: 19 })
      await expect(d.project(x, one!, { probes: 1, rows: 4 })).rejects.toThrow(/20 elements/)
    })
  })
})
