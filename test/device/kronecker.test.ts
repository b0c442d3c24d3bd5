// Kronecker factors: sizes whose products are right for every size up to 20,000, and (A (x) B) x on
// the devices without the product, against the formed one, for matrices of real models.
// Alone: npx vitest run test/device/kronecker.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { projectionCols, type Device } from '../../src/device/device.ts'
import { addendOf } from '../../src/methods/addend.ts'
import { chooseKronDims, divisorPair, KRON_STRATEGIES } from '../../src/methods/kron-sizes.ts'
import { openDevices, values } from '../helpers/devices.ts'

describe('divisorPair', () => {
  it('has the right product and keeps its rule for every size up to 20,000', () => {
    for (let d = 1; d <= 20_000; d++) {
      for (const strategy of KRON_STRATEGIES) {
        for (const most of strategy === 'fixed_factor' ? [4, 32] : [32]) {
          const [small, large] = divisorPair(d, strategy, most)
          if (small * large !== d || small > large) throw new Error(`${d} ${strategy}`)
          // No divisor between the chosen one and its bound.
          if (strategy === 'approx_square') {
            for (let n = small + 1; n * n <= d; n++)
              if (d % n === 0) throw new Error(`${d} has ${n}`)
          }
          if (strategy === 'fixed_factor') {
            let best = Math.min(most, d)
            while (d % best !== 0) best--
            if (small !== best && large !== best) throw new Error(`${d} has ${best} <= ${most}`)
          }
          if (strategy === 'power2') {
            const power = [small, large].find((n) => Number.isInteger(Math.log2(n)) && (d / n) % 2)
            if (power === undefined) throw new Error(`${d}: ${small} x ${large}`)
          }
        }
      }
    }
  })

  it.each([
    ...[
      [12, 3, 4],
      [8, 2, 4],
      [65, 5, 13],
      [384, 16, 24],
      [512, 16, 32],
    ],
    ...[
      [768, 24, 32],
      [1024, 32, 32],
      [1152, 32, 36],
      [1376, 32, 43],
      [1536, 32, 48],
    ],
    ...[
      [2048, 32, 64],
      [8192, 64, 128],
      [2050, 41, 50],
      [2304, 48, 48],
      [2560, 40, 64],
    ],
    ...[
      [10240, 80, 128],
      [3072, 48, 64],
      [4096, 64, 64],
      [5120, 64, 80],
      [20480, 128, 160],
    ],
    ...[
      [5461, 43, 127],
      [7168, 64, 112],
      [28672, 128, 224],
      [9216, 96, 96],
      [36864, 192, 192],
    ],
    ...[
      [32000, 160, 200],
      [50257, 29, 1733],
      [50272, 32, 1571],
      [50304, 192, 262],
      [7919, 1, 7919],
    ],
  ])('splits %d into %d x %d', (d, small, large) => {
    expect(divisorPair(d!, 'approx_square', 32)).toEqual([small, large])
  })

  it('takes the largest factor allowed, and powers of two', () => {
    expect(divisorPair(768, 'fixed_factor', 32)).toEqual([24, 32])
    expect(divisorPair(12, 'fixed_factor', 4)).toEqual([3, 4])
    expect(divisorPair(768, 'power2', 32)).toEqual([3, 256])
    expect(divisorPair(16, 'power2', 32)).toEqual([1, 16])
  })
})

/** Output rows that are looked at, spread over the matrix, borders of blocks included. */
const sample = (N: number, m2: number) =>
  [...new Set([0, 1, m2 - 1, m2, 2 * m2 + 1, Math.floor(N / 2), N - m2, N - 1])].filter(
    (n) => n >= 0 && n < N,
  )

/** [rows, cols] of a family's matrices: attention, feed-forward, vocabulary, positions. */
const shapesOf = (C: number, F: number, V: number, positions = V, qkv = C) => [
  [C, C],
  [qkv, C],
  [F, C],
  [C, F],
  [V, C],
  [positions, C],
]

const SHAPES = [
  ...[
    [512, 1024],
    [1024, 512],
    [50272, 512],
  ], // OPT-350M's projections and vocabulary
  ...shapesOf(768, 3072, 50272, 2050), // OPT-125M
  ...shapesOf(1024, 4096, 50272, 2050), // OPT-350M
  ...shapesOf(2048, 8192, 50272, 2050), // OPT-1.3B
  ...shapesOf(2560, 10240, 50272, 2050), // OPT-2.7B
  ...shapesOf(4096, 16384, 50272, 2050), // OPT-6.7B
  ...shapesOf(5120, 20480, 50272, 2050), // OPT-13B
  ...shapesOf(7168, 28672, 50272, 2050), // OPT-30B
  ...shapesOf(9216, 36864, 50272, 2050), // OPT-66B
  ...shapesOf(768, 3072, 50257, 1024, 2304), // GPT-2
  ...shapesOf(1600, 6400, 50257, 1024, 4800), // GPT-2 XL
  ...shapesOf(384, 1536, 65, 256, 1152), // nanoGPT on characters
  ...shapesOf(768, 3072, 50304, 1024, 2304), // nanoGPT
  ...shapesOf(512, 1376, 32000), // Llama-60M
  ...shapesOf(2048, 5461, 32000), // Llama-1B
]
const DISTINCT = [...new Map(SHAPES.map((shape) => [shape.join(), shape])).values()]

/** power2 of 2^a x 2^b has the whole matrix as a factor; those above this are left out. */
const MOST_ELEMENTS = 2 ** 22

describe.each(openDevices())('on $name', (test) => {
  let device: Device
  beforeAll(async () => {
    device = await test.open()
  })
  afterAll(() => device?.close())

  it.each(DISTINCT)('(A (x) B) x equals the formed product, [%d, %d]', async (N, K) => {
    for (const transposed of [false, true]) {
      for (const strategy of KRON_STRATEGIES) {
        await compare(N!, K!, transposed, strategy)
      }
    }
  })

  /** The addend alone: W is one column of zeros, so that no shape needs its weights. */
  async function compare(
    N: number,
    K: number,
    transposed: boolean,
    strategy: (typeof KRON_STRATEGIES)[number],
  ) {
    const shape = { name: 'w', rows: transposed ? K : N, cols: transposed ? N : K, transposed }
    const { m1, m2, n1, n2 } = chooseKronDims(shape, strategy, 32)
    if (Math.max(m1 * n1, m2 * n2) > MOST_ELEMENTS) {
      expect([m1 * n1, m2 * n2, strategy]).toContain('power2')
      expect(Math.min(m1 * n1, m2 * n2)).toBe(1)
      return
    }
    const [left, right] = [values(m1 * n1, 1), values(m2 * n2, 2)]
    const term = { kind: 'kronecker', m2, n1, n2, left, right } as const
    const probes = [1 / 8, -1 / 8].map((scale) => ({ direction: 0, scale }))
    const addend = addendOf(shape, [], [term], probes)
    const rows = 1
    const wanted = sample(N, addend.kind === 'kronecker' ? addend.m2 : 1)
    device.reserve({
      probes: 2,
      rows,
      attention: { heads: 1, kvHeads: 1, headSize: 8, groups: 1, listed: 1, longest: 1 },
      headRows: rows,
      targets: 1,
      tileElements: N,
      tileRows: N,
      terms: 1,
      versions: 1,
      slabBytes: 4 * N,
      slots: 1,
      projectionCols: Math.max(1, projectionCols(addend)),
      addendElements: addend.left.length + addend.right.length,
      halfCols: 0,
    })
    const x = device.tensor('activations', 'x', 2 * rows, K)
    const zero = device.tensor('activations', 'zero', 2 * rows, 1)
    const y = device.tensor('activations', 'y', 2 * rows, N)
    const slot = device.slot('slots', 'w', 4 * N)
    try {
      const inputs = Float32Array.from(
        { length: 2 * rows * K },
        (_, i) => ((i * 37) % 23) / 23 - 0.5,
      )
      device.write(x, inputs)
      device.write(zero, new Float32Array(2 * rows))
      await device.project(x, addend, { probes: 2, rows })
      ;(await device.stage(slot, 4 * N)).fill(0)
      device.commit(slot, {
        name: 'w',
        dtype: 'F32',
        cols: 1,
        tiles: [{ row0: 0, rows: N }],
        recipe: { terms: [], scales: [0] },
      })
      await device.linear(zero, slot, null, y, { probes: 2, rows }, { addend })
      const found = await device.read(y, 0, 2 * rows)
      // Never formed: all that is on the device is smaller than the matrix would be.
      expect(addend.left.length + addend.right.length).toBe(2 * m1 * n1 + m2 * n2)
      if (strategy !== 'power2' && N * K >= 2 ** 20) {
        expect(device.ledger.total()).toBeLessThan(4 * N * K)
      }
      const formed = (n: number, k: number) => {
        const [i, j] = transposed ? [k, n] : [n, k]
        const a = left[Math.floor(i / m2) * n1 + Math.floor(j / n2)]!
        return a * right[(i % m2) * n2 + (j % n2)]!
      }
      for (const [p, scale] of [1 / 8, -1 / 8].entries()) {
        for (const n of wanted) {
          let sum = 0
          for (let k = 0; k < K; k++) sum += scale * formed(n, k) * inputs[p * K + k]!
          const off = Math.abs(found[p * N + n]! - sum)
          expect(off, `${strategy} output ${n} of probe ${p}`).toBeLessThan(
            1e-5 * Math.sqrt(K) + 1e-5 * Math.abs(sum),
          )
        }
      }
    } finally {
      for (const memory of [x, zero, y, slot]) device.free(memory)
    }
  }
})
