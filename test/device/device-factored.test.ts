// Products with factored addends, weights that all probes share and transposed matrices, on every
// device, against plain f64 loops; bounds are on the largest absolute difference, for inputs of about
// unit size. Other operations: device.test.ts.
// Alone: npx vitest run test/device/device-factored.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Addend, Device, Tensor } from '../../src/device/device.ts'
import type { DType } from '../../src/util/dtypes.ts'
import {
  differ,
  filled,
  fixed,
  keeping,
  matrixOf,
  openInDtypes,
  recipeOf,
  scoped,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
  type Matrix,
} from '../helpers/devices.ts'
import { needsHalves } from '../helpers/needs.ts'

const PROBES = 5
const EPS = 0.02
const SHARED = recipeOf([0], 0)

function lowRank(probes: number, n: number, k: number, rank: number): Addend {
  return {
    kind: 'low-rank',
    rank,
    scales: values(probes * rank, 23),
    right: values(rank * k, 21, 0.1),
    left: values(n * rank, 22, 0.1),
  }
}

function kronecker(
  probes: number,
  [m1, m2]: readonly [number, number],
  [n1, n2]: readonly [number, number],
  terms: number,
): Addend {
  return {
    kind: 'kronecker',
    terms,
    m1,
    m2,
    n1,
    n2,
    right: values(terms * m2 * n2, 21, 0.1),
    left: values(probes * m1 * terms * n1, 22, 0.1),
  }
}

interface Call {
  readonly matrix: Matrix
  readonly perSlab: number
  readonly probes: number
  readonly rows: number
  readonly n: number
  readonly k: number
  readonly addend?: Addend
  readonly bias?: boolean
  readonly relu?: boolean
}

/** y of one linear through all slabs of the matrix, the addend's projection first. */
async function linear(d: Device, call: Call): Promise<Float32Array> {
  const { matrix, perSlab, probes, rows, n, k, addend, bias, relu } = call
  const at = { probes, rows }
  const x = filled(d, probes * rows, k, values(probes * rows * k, 1))
  // What y holds before is of no importance; a bias may have more rows than there are probes.
  const y = filled(d, probes * rows, n, values(probes * rows * n, 4, 100))
  const b = bias ? fixed(d, probes + 1, n, values((probes + 1) * n, 2)) : null
  if (addend) await d.project(x, addend, at)
  const options = { ...(relu && { relu }), ...(addend && { addend }) }
  await throughSlabs(d, matrix, perSlab, (slot) => d.linear(x, slot, b, y, at, options))
  return d.read(y, 0, probes * rows)
}

/** x, projected if there is an addend. */
async function projected(d: Device, call: Call): Promise<Tensor> {
  const { probes, rows, k, addend } = call
  const x = filled(d, probes * rows, k, values(probes * rows * k, 1))
  if (addend) await d.project(x, addend, { probes, rows })
  return x
}

async function losses(d: Device, call: Call): Promise<Float32Array> {
  const { probes, rows, n } = call
  const total = probes * rows
  const x = await projected(d, call)
  const start = Array.from({ length: total }, () => [-Infinity, 0, 0]).flat()
  const state = fixed(d, total, 3, Float32Array.from(start))
  const targets = Uint32Array.from({ length: total }, (_, i) => (i * 37 + n - 1) % n)
  await throughSlabs(d, call.matrix, call.perSlab, (slot) =>
    d.crossEntropy(x, slot, targets, state, { probes, rows }, call),
  )
  const s = await d.read(state, 0, total)
  return s.filter((_, i) => i % 3 === 0).map((m, i) => m + Math.log(s[i * 3 + 1]!) - s[i * 3 + 2]!)
}

async function logits(d: Device, call: Call): Promise<Float32Array> {
  const { probes, rows } = call
  const x = await projected(d, call)
  const parts: number[] = []
  await throughSlabs(d, call.matrix, call.perSlab, (slot) =>
    d.logits(x, slot, { probes, rows }, (_tile, data) => void parts.push(...data), call),
  )
  return Float32Array.from(parts)
}

describe.each(openInDtypes())('$name, activations $dtype', ({ name, open, dtype: activations }) => {
  if (activations === 'F16') needsHalves({ name })
  let device: Device
  /** Differences of rows, beyond their own rounding, and of results that are f32 anyway. */
  const differences = (roundings: number) => (scenario: (d: Device) => Promise<Float32Array>) =>
    differ(device, scenario, { dtype: activations, roundings })
  const [inRows, inF32] = [differences(activations === 'F16' ? 1 : 0), differences(0)]
  /** Sums of a transposed matrix are rounded from tile to tile. */
  const transposedBound = (f32: number) => (activations === 'F16' ? 4e-3 : f32)
  beforeAll(async () => {
    device = keeping(activations, await open())
    const halfCols = activations === 'F16' ? 1024 : 0
    device.reserve({ ...WORKLOAD, probes: PROBES, versions: 3, rows: 400, halfCols })
  })
  afterAll(() => device?.close())

  // dtype, probes, rows, N, K, tile height, tiles per slab, rank, bias, relu
  const lowRankCases: [
    DType,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    boolean,
    boolean,
  ][] = [
    ['F32', 1, 7, 33, 19, 33, 1, 1, false, false],
    ['F32', 2, 10, 100, 64, 16, 2, 2, true, false],
    ['F16', 2, 130, 96, 48, 96, 1, 4, true, true],
    ['F16', 3, 5, 65, 31, 20, 1, 17, true, true],
    ['BF16', 5, 9, 47, 33, 16, 3, 3, true, false],
    ['F32', 5, 1, 1, 1, 1, 1, 1, true, false],
    ['F32', 1, 1, 130, 70, 64, 1, 16, true, true],
    ['F32', 2, 200, 140, 90, 60, 2, 8, false, true],
  ]
  it.each(lowRankCases)(
    'low-rank: %s, %d probes of %d rows, W [%d, %d], tiles of %d, %d a slab, rank %d, bias %s, relu %s',
    async (dtype, probes, rows, n, k, height, perSlab, rank, bias, relu) => {
      const matrix = matrixOf(dtype, k, tilesOver(0, n, height), SHARED)
      const addend = lowRank(probes, n, k, rank)
      const call = { matrix, perSlab, probes, rows, n, k, addend, bias, relu }
      expect(await inRows((d) => linear(d, call))).toBeLessThan(8e-6)
    },
  )

  // dtype, probes, rows, [m1, m2], [n1, n2], terms, tile height, tiles per slab, bias, relu
  const kroneckerCases: [
    DType,
    number,
    number,
    [number, number],
    [number, number],
    number,
    number,
    number,
    boolean,
    boolean,
  ][] = [
    ['F32', 1, 7, [3, 11], [4, 5], 1, 33, 1, false, false],
    ['F32', 2, 10, [10, 10], [8, 8], 1, 20, 2, true, false],
    ['F16', 2, 130, [8, 12], [6, 8], 1, 16, 1, true, true],
    ['F16', 3, 5, [5, 13], [31, 1], 3, 20, 1, true, true],
    ['BF16', 5, 9, [47, 1], [1, 33], 2, 16, 3, true, false],
    ['F32', 5, 1, [1, 40], [3, 7], 2, 16, 1, true, false],
    ['F32', 1, 1, [10, 13], [7, 10], 2, 64, 1, true, true],
    ['F32', 2, 200, [4, 35], [9, 10], 1, 60, 2, false, true],
  ]
  it.each(kroneckerCases)(
    'kronecker: %s, %d probes of %d rows, m %j, n %j, %d terms, tiles of %d, %d a slab, bias %s, relu %s',
    async (dtype, probes, rows, m, n, terms, height, perSlab, bias, relu) => {
      const [N, K] = [m[0] * m[1], n[0] * n[1]]
      const matrix = matrixOf(dtype, K, tilesOver(0, N, height), SHARED)
      const addend = kronecker(probes, m, n, terms)
      const call = { matrix, perSlab, probes, rows, n: N, k: K, addend, bias, relu }
      expect(await inRows((d) => linear(d, call))).toBeLessThan(8e-6)
    },
  )

  it.each([1, 2, 3])('an addend over %d versions of the weights, with noise', async (probes) => {
    const recipe = recipeOf([EPS, -EPS, 0].slice(0, probes), 2)
    const matrix = matrixOf('F16', 30, tilesOver(0, 70, 32), recipe)
    const size = { matrix, perSlab: 2, probes, rows: 6, n: 70, k: 30, bias: true }
    for (const addend of [lowRank(probes, 70, 30, 3), kronecker(probes, [7, 10], [5, 6], 2)]) {
      expect(await inRows((d) => linear(d, { ...size, addend }))).toBeLessThan(8e-6)
    }
  })

  it.each([
    ['as they are', recipeOf([0], 0), false],
    ['as they are', { terms: [], scales: [0] }, true],
    ['with noise', recipeOf([EPS], 0), true],
    ['with updates owed', recipeOf([0], 3, 0.99), true],
  ] as const)('five probes share the weights %s', async (_name, recipe, bias) => {
    for (const dtype of ['F32', 'F16'] as const) {
      const matrix = matrixOf(dtype, 40, tilesOver(0, 50, 20), recipe)
      const call = { matrix, perSlab: 2, probes: 5, rows: 7, n: 50, k: 40, bias }
      expect(await inRows((d) => linear(d, call))).toBeLessThan(4e-6)
      expect(await inF32((d) => losses(d, call))).toBeLessThan(2e-5)
      expect(await inF32((d) => logits(d, call))).toBeLessThan(4e-6)
    }
  })

  it.each([
    [1, 1, 50, 1],
    [2, 40, 133, 2],
    [3, 5, 70, 3],
    [5, 9, 130, 1],
  ])(
    'head with addends: %d probes of %d rows, V %d, %d a slab',
    async (probes, rows, V, perSlab) => {
      const matrix = matrixOf('F16', 24, tilesOver(0, V, 32), SHARED)
      const [m1, m2] = V % 10 ? [7, 19] : [V / 10, 10]
      for (const addend of [lowRank(probes, V, 24, 4), kronecker(probes, [m1!, m2!], [4, 6], 2)]) {
        const call = { matrix, perSlab, probes, rows, n: V, k: 24, addend }
        expect(await inF32((d) => losses(d, call))).toBeLessThan(2e-5)
        expect(await inF32((d) => logits(d, call))).toBeLessThan(8e-6)
      }
    },
  )

  // dtype, scales, terms, rows, N, K, tile height, tiles per slab, bias
  const transposedCases: [
    DType,
    number[],
    number,
    number,
    number,
    number,
    number,
    number,
    boolean,
  ][] = [
    ['F32', [0], 0, 7, 33, 19, 19, 1, false],
    ['F32', [EPS, -EPS], 0, 10, 100, 64, 16, 2, true],
    ['F16', [EPS, -EPS], 3, 33, 65, 50, 20, 1, true],
    ['BF16', [EPS, -EPS, 0], 1, 5, 48, 100, 30, 2, true],
    ['F16', [EPS], 1, 1, 130, 70, 32, 1, true],
  ]
  it.each(transposedCases)(
    'transposed: %s, scales %j, %d terms, %d rows, W [%d, %d] tiles of %d, %d a slab, bias %s',
    async (dtype, scales, terms, rows, n, k, height, perSlab, bias) => {
      const matrix = matrixOf(dtype, n, tilesOver(0, k, height), recipeOf(scales, terms))
      const probes = scales.length
      const transposed = { ...matrix, transposed: true }
      const call = { matrix: transposed, perSlab, probes, rows, n, k, bias }
      expect(await inRows((d) => linear(d, call))).toBeLessThan(transposedBound(5e-6))
    },
  )

  it('transposed: addends, probes that share the weights, the same bits for every slab size', async () => {
    const matrix = { ...matrixOf('F16', 60, tilesOver(0, 70, 16), SHARED), transposed: true }
    for (const probes of [1, 2, 5]) {
      const size = { matrix, probes, rows: 70, n: 60, k: 70, bias: true }
      const addends = [
        lowRank(probes, 60, 70, 3),
        kronecker(probes, [5, 12], [7, 10], 2),
        undefined,
      ]
      for (const addend of addends) {
        const call = { ...size, perSlab: 1, ...(addend && { addend }) }
        expect(await inRows((d) => linear(d, call))).toBeLessThan(transposedBound(8e-6))
        const found = await scoped(device, (d) => linear(d, call))
        for (const perSlab of [2, 3, 5]) {
          expect(await scoped(device, (d) => linear(d, { ...call, perSlab }))).toEqual(found)
        }
      }
    }
  })

  it('addends: the same bits for every slab size', async () => {
    const matrix = matrixOf('F32', 96, tilesOver(0, 300, 64), SHARED)
    for (const addend of [lowRank(2, 300, 96, 5), kronecker(2, [15, 20], [8, 12], 1)]) {
      const call = { matrix, probes: 2, rows: 40, n: 300, k: 96, bias: true, addend }
      const whole = await scoped(device, (d) => linear(d, { ...call, perSlab: 5 }))
      for (const perSlab of [1, 2, 3]) {
        expect(await scoped(device, (d) => linear(d, { ...call, perSlab }))).toEqual(whole)
      }
    }
  })
})
