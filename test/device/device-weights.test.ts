// What every device owes beside its arithmetic: perturbed weights with the bits of src/noise/distributions.ts,
// results that no slab size or row split changes, slots in order, a ledger that equals the memory
// model, and errors a user understands. Operations against f64: device.test.ts.
// Alone: npx vitest run test/device/device-weights.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Device, type Slot } from '../../src/device/device.ts'
import { bytesOf, type Workload } from '../../src/device/memory.ts'
import { UserError } from '../../src/util/errors.ts'
import { NOISES } from '../../src/noise/distributions.ts'
import type { DType } from '../../src/util/dtypes.ts'
import {
  filled,
  load,
  matrixOf,
  openDevices,
  recipeOf,
  scoped,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
  type Matrix,
} from '../helpers/devices.ts'
import { perturbed } from '../reference/device.ts'

const EPS = 0.02

/** P copies of the identity [k, k]. */
const identity = (probes: number, k: number) =>
  Float32Array.from({ length: probes * k * k }, (_, i) => {
    return Math.floor(i / k) % k === i % k ? 1 : 0
  })

/** The logits of identity rows are the perturbed weights themselves, one version after the other. */
async function observe(device: Device, m: Matrix): Promise<Float32Array[]> {
  const probes = m.recipe.scales.length
  const n = m.bytes.length / (m.dtype === 'F32' ? 4 : 2) / m.cols
  const versions = Array.from({ length: probes }, () => new Float32Array(n * m.cols))
  await scoped(device, async (d) => {
    const x = filled(d, probes * m.cols, m.cols, identity(probes, m.cols))
    const at = { probes, rows: m.cols }
    await throughSlabs(d, m, 2, (slot) =>
      d.logits(x, slot, at, (tile, data) => {
        data.forEach((value, i) => {
          const [row, column] = [Math.floor(i / tile.rows), i % tile.rows]
          const index = (tile.row0 - m.tiles[0]!.row0 + column) * m.cols + (row % m.cols)
          versions[Math.floor(row / m.cols)]![index] = value
        })
      }),
    )
  })
  return versions
}

/** y of one linear over all tiles of the matrix, `perSlab` of them at a time. */
async function multiply(device: Device, m: Matrix, perSlab: number, x: Float32Array, rows: number) {
  const n = m.tiles.reduce((sum, t) => sum + t.rows, 0)
  const probes = m.recipe.scales.length
  return scoped(device, async (d) => {
    const y = d.tensor('activations', 'y', probes * rows, n)
    const input = filled(d, probes * rows, m.cols, x)
    await throughSlabs(d, m, perSlab, (slot) => d.linear(input, slot, null, y, { probes, rows }))
    return d.read(y, 0, probes * rows)
  })
}

describe.each(openDevices())('$name', ({ open }) => {
  let device: Device
  beforeAll(async () => {
    device = await open()
    device.reserve(WORKLOAD)
  })
  afterAll(() => device?.close())

  // dtype, scales, terms, first row, rows, K
  const bitCases: [DType, number[], number, number, number, number][] = [
    ['F32', [EPS, -EPS], 0, 0, 40, 24],
    ['F32', [EPS, -EPS], 3, 7, 33, 19],
    ['F16', [EPS, -EPS, 0], 4, 0, 21, 33],
    ['F16', [0], 2, 16, 50, 16],
    ['BF16', [EPS, EPS / 3], 1, 5, 17, 31],
    ['BF16', [-EPS], 0, 0, 16, 64],
    // Element indices around 2^31, and beyond 2^32, where the noise counter's pair needs 32 bits.
    ['F16', [EPS, -EPS], 1, Math.floor(2 ** 31 / 125) - 8, 20, 125],
    ['F32', [EPS, -EPS], 1, Math.ceil(2 ** 32 / 125) - 8, 20, 125],
  ]
  describe.each(NOISES)('with %s noise', (noise) => {
    it.each(bitCases)(
      'prepares %s weights with scales %j, %d terms from row %d, [%d, %d], to the bit',
      async (dtype, scales, terms, row0, rows, cols) => {
        const recipe = recipeOf(scales, terms, 1, noise)
        const matrix = matrixOf(dtype, cols, tilesOver(row0, rows, 16), recipe)
        const expected = scales.map((_, p) => perturbed(matrix.bytes, { name: 'w', ...matrix }, p))
        const found = await observe(device, matrix)
        expect(found.map((v, p) => v.findIndex((x, i) => x !== expected[p]![i]))).toEqual(
          scales.map(() => -1),
        )
      },
    )
  })

  it('prepares decaying weights to the last ulp of each step', async () => {
    const recipe = recipeOf([EPS, -EPS], 4, 0.99)
    const matrix = matrixOf('F16', 33, tilesOver(0, 40, 16), recipe)
    const expected = [0, 1].map((p) => perturbed(matrix.bytes, { name: 'w', ...matrix }, p))
    const found = await observe(device, matrix)
    found.forEach((v, p) => {
      v.forEach((x, i) => expect(Math.abs(x - expected[p]![i]!)).toBeLessThan(4 * 2 ** -24))
    })
  })

  it('gives the same bits for every slab size', async () => {
    const matrix = matrixOf('F16', 96, tilesOver(0, 300, 64), recipeOf([EPS, -EPS], 2))
    const x = values(2 * 40 * 96, 1)
    const whole = await multiply(device, matrix, 5, x, 40)
    for (const perSlab of [1, 2, 3, 4]) {
      expect(await multiply(device, matrix, perSlab, x, 40)).toEqual(whole)
    }
  })

  it('gives the same bits for a part of the rows alone', async () => {
    const matrix = matrixOf('F32', 200, tilesOver(0, 150, 64), recipeOf([EPS], 1))
    const x = values(50 * 200, 1)
    const all = await multiply(device, matrix, 1, x, 50)
    for (const rows of [2, 7, 25, 49]) {
      const part = await multiply(device, matrix, 1, x.subarray(0, rows * 200), rows)
      expect(part).toEqual(all.subarray(0, rows * 150))
    }
  })

  it('uses slots in the order of their commits, forgets discarded ones, keeps resident bytes', async () => {
    await scoped(device, async (d) => {
      const matrices = [1, 2, 3].map((scale) => ({
        ...matrixOf('F32', 4, [{ row0: 0, rows: 4 }], { terms: [], scales: [0] }),
        bytes: new Uint8Array(new Float32Array(16).fill(scale).buffer),
      }))
      const x = filled(d, 4, 4, identity(1, 4))
      const y = d.tensor('activations', 'y', 4, 4)
      const product = async (slot: Slot) => {
        await d.linear(x, slot, null, y, { probes: 1, rows: 4 })
        return new Set(await d.read(y, 0, 4))
      }
      const [a, b] = [d.slot('slots', 'a', 64), d.slot('resident', 'b', 64)]
      await load(d, a, matrices[0]!)
      await load(d, b, matrices[1]!)
      d.discard(a)
      expect(await product(b)).toEqual(new Set([2]))
      await d.stage(a, 64)
      d.discard(a) // staged, never committed
      d.discard(a) // nothing left to forget
      await load(d, a, matrices[2]!)
      d.commit(b, { name: 'w', ...matrices[1]! }) // its bytes are still there
      expect(await product(a)).toEqual(new Set([3]))
      expect(await product(b)).toEqual(new Set([2]))
    })
  })

  it('does not overwrite a slab that is still to be used', async () => {
    await scoped(device, async (d) => {
      const matrix = matrixOf('F32', 512, tilesOver(0, 512, 64), recipeOf([EPS, -EPS], 4))
      const slot = d.slot('slots', 'only', matrix.bytes.length)
      const x = filled(d, 256, 512, values(256 * 512, 1))
      const y = d.tensor('activations', 'y', 256, 512)
      const at = { probes: 2, rows: 128 }
      await load(d, slot, matrix)
      const first = d.linear(x, slot, null, y, at)
      d.discard(slot) // it is used: nothing to forget
      const staged = await d.stage(slot, matrix.bytes.length) // at once, before linear is done
      staged.fill(0xff)
      d.discard(slot)
      await first
      const found = await d.read(y, 0, 256)
      expect(found).toEqual(await multiply(device, matrix, 8, values(256 * 512, 1), 128))
    })
  })

  it('has a ledger that equals the memory model and is zero after close', async () => {
    const own = await open()
    const small: Workload = { ...WORKLOAD, probes: 2, rows: 64, targets: 40, slots: 3 }
    try {
      for (const workload of [WORKLOAD, small]) {
        own.reserve(workload)
        expect(own.ledger.now.scratch).toBe(bytesOf(own.memory.scratch(workload)))
        expect(own.ledger.now.staging).toBe(own.memory.stagingBytes(workload))
      }
      const before = own.ledger.total()
      const tensor = own.tensor('activations', 'm', 8, 12)
      const slot = own.slot('slots', 's', 1000)
      own.slot('resident', 'r', 52)
      expect(own.ledger.now.activations).toBe(8 * 12 * 4)
      expect(own.ledger.now.slots).toBe(own.memory.slotBytes(1000))
      expect(own.ledger.now.resident).toBe(own.memory.slotBytes(52))
      own.free(tensor)
      own.free(slot)
      expect(own.ledger.total()).toBe(before + own.memory.slotBytes(52))
      own.tensor('activations', 'left open', 8, 12)
    } finally {
      await own.close()
    }
    await own.close()
    expect(own.ledger.total()).toBe(0)
    expect(Object.values(own.ledger.now).every((bytes) => bytes === 0)).toBe(true)
  })

  it('refuses what it cannot allocate as a UserError, and goes on', async () => {
    expect(() => device.tensor('activations', 'huge', 2 ** 22, 2 ** 22)).toThrow(UserError)
    expect(() => device.slot('slots', 'huge', 2 ** 45)).toThrow(UserError)
    await scoped(device, async (d) => {
      const x = filled(d, 2, 2, Float32Array.of(1, 2, 3, 4))
      expect([...(await d.read(x, 0, 2))]).toEqual([1, 2, 3, 4])
    })
  })

  it('refuses work after close', async () => {
    const own = await open()
    own.reserve(WORKLOAD)
    const x = own.tensor('activations', 'x', 2, 2)
    await own.close()
    await expect(own.read(x, 0, 1)).rejects.toThrow(/closed/)
    expect(() => own.tensor('activations', 'y', 2, 2)).toThrow(/closed/)
  })
})
