// The product with weights on every device, against plain f64 loops: dtypes, noise, decay, bias, relu, slabs.
// The other operations: device.test.ts; with factored addends: device-factored.test.ts.
// Alone: npx vitest run test/device/device-linear.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device } from '../../src/device/device.ts'
import type { DType } from '../../src/util/dtypes.ts'
import {
  differ,
  filled,
  fixed,
  keeping,
  matrixOf,
  openInDtypes,
  recipeOf,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { needsHalves } from '../helpers/needs.ts'

const EPS = 0.02

describe.each(openInDtypes())('$name, activations $dtype', ({ name, open, dtype }) => {
  if (dtype === 'F16') needsHalves({ name })
  let device: Device
  /** What the device and the reference differ by, but for one rounding to f16. */
  const inRows = (scenario: (d: Device) => Promise<Float32Array>) =>
    differ(device, scenario, { dtype, roundings: dtype === 'F16' ? 1 : 0 })
  beforeAll(async () => {
    device = keeping(dtype, await open())
    device.reserve({ ...WORKLOAD, halfCols: dtype === 'F16' ? 1024 : 0 })
  })
  afterAll(() => device?.close())

  // dtype, probes, rows, N, K, tile height, tiles per slab, terms, decay, bias
  const linearCases: [
    DType,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    boolean,
  ][] = [
    ['F32', 1, 7, 33, 19, 33, 1, 0, 1, false],
    ['F32', 2, 10, 100, 64, 16, 2, 0, 1, true],
    ['F32', 2, 130, 96, 48, 96, 1, 3, 1, true],
    ['F16', 2, 12, 65, 31, 20, 1, 3, 0.999, true],
    ['F16', 3, 5, 64, 128, 64, 1, 1, 1, false],
    ['BF16', 2, 9, 47, 33, 16, 3, 2, 0.99, true],
    ['BF16', 1, 1, 18, 7, 5, 2, 0, 1, true],
    ['F32', 3, 1, 1, 1, 1, 1, 4, 0.9, true],
    ['F16', 2, 600, 96, 1000, 96, 1, 0, 1, true],
    ['F32', 1, 1200, 60, 1000, 32, 1, 0, 1, false],
  ]
  it.each(linearCases)(
    'linear: %s, %d probes of %d rows, W [%d, %d], tiles of %d rows, %d a slab, %d terms, decay %d',
    async (dtype, probes, rows, n, k, height, perSlab, terms, decay, withBias) => {
      const recipe = recipeOf([EPS, -EPS, 0].slice(0, probes), terms, decay)
      const matrix = matrixOf(dtype, k, tilesOver(0, n, height), recipe)
      const difference = await inRows(async (d) => {
        const x = filled(d, probes * rows, k, values(probes * rows * k, 1))
        const bias = withBias ? fixed(d, probes, n, values(probes * n, 2)) : null
        const y = d.tensor('activations', 'y', probes * rows, n)
        await throughSlabs(d, matrix, perSlab, (slot) =>
          d.linear(x, slot, bias, y, { probes, rows }),
        )
        return d.read(y, 0, probes * rows)
      })
      expect(difference).toBeLessThan(k < 500 ? 4e-6 : 2e-5)
    },
  )

  it('linear: relu is part of the product, also over several slabs', async () => {
    const matrix = matrixOf('F16', 31, tilesOver(0, 65, 20), recipeOf([EPS, -EPS], 1, 1))
    const difference = await inRows(async (d) => {
      const x = filled(d, 14, 31, values(14 * 31, 1))
      const bias = fixed(d, 2, 65, values(2 * 65, 2))
      const y = d.tensor('activations', 'y', 14, 65)
      const at = { probes: 2, rows: 7 }
      await throughSlabs(d, matrix, 1, (slot) => d.linear(x, slot, bias, y, at, { relu: true }))
      const result = await d.read(y, 0, 14)
      expect(result.every((v) => v >= 0)).toBe(true)
      expect(result.some((v) => v === 0)).toBe(true)
      return result
    })
    expect(difference).toBeLessThan(4e-6)
  })

  it('linear: an evaluation has one version and no noise', async () => {
    const matrix = matrixOf('F16', 24, tilesOver(0, 40, 16), { terms: [], scales: [0] })
    const difference = await inRows(async (d) => {
      const x = filled(d, 6, 24, values(144, 1))
      const y = d.tensor('activations', 'y', 6, 40)
      await throughSlabs(d, matrix, 1, (slot) => d.linear(x, slot, null, y, { probes: 1, rows: 6 }))
      return d.read(y, 0, 6)
    })
    expect(difference).toBeLessThan(2e-6)
  })
})
