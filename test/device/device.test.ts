// Every operation of the device contract on every device, against plain f64 loops. Each bound is on
// the largest absolute difference, for inputs of about unit size.
// Weights, slots, ledger and failures: device-weights.test.ts.
// Alone: npx vitest run test/device/device.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Activation, Device } from '../../src/device/device.ts'
import {
  differ,
  filled,
  fixed,
  keeping,
  load,
  matrixOf,
  openInDtypes,
  recipeOf,
  scoped,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { needsHalves } from '../helpers/needs.ts'

const EPS = 0.02

/** The state crossEntropy starts from, and the losses it ends in. */
const startOf = (rows: number) =>
  Float32Array.from({ length: rows * 3 }, (_, i) => (i % 3 ? 0 : -Infinity))
const lossesOf = (s: Float32Array) =>
  Float32Array.from({ length: s.length / 3 }, (_, i) => {
    return s[i * 3]! + Math.log(s[i * 3 + 1]!) - s[i * 3 + 2]!
  })

describe.each(openInDtypes())('$name, activations $dtype', ({ name, open, dtype }) => {
  if (dtype === 'F16') needsHalves({ name })
  let device: Device
  /** Differences of activations, and of results that are f32 anyway. */
  const differences = (roundings: number) => (scenario: (d: Device) => Promise<Float32Array>) =>
    differ(device, scenario, { dtype, roundings })
  const [inRows, inF32] = [differences(dtype === 'F16' ? 1 : 0), differences(0)]
  beforeAll(async () => {
    device = keeping(dtype, await open())
    device.reserve({ ...WORKLOAD, halfCols: dtype === 'F16' ? 1024 : 0 })
  })
  afterAll(() => device?.close())

  it('refuses what no device does, and goes on after it', async () => {
    await scoped(device, async (d) => {
      const at = { probes: 1, rows: 4 }
      const transposed = {
        ...matrixOf('F32', 6, tilesOver(0, 8, 8), recipeOf([0], 0)),
        transposed: true,
      }
      const slot = d.slot('slots', 'slot', transposed.bytes.length)
      const x = filled(d, 4, 8, values(32, 1))
      const y = d.tensor('activations', 'y', 4, 6)
      const state = fixed(d, 4, 3, startOf(4))
      const refused: [RegExp, () => Promise<void>][] = [
        [/^w is transposed: .*no relu/, () => d.linear(x, slot, null, y, at, { relu: true })],
        [/^w .*vocabulary/, () => d.crossEntropy(x, slot, new Uint32Array(4), state, at)],
        [/^w .*vocabulary/, () => d.logits(x, slot, at, () => expect.unreachable())],
      ]
      for (const [reason, call] of refused) {
        await load(d, slot, transposed)
        await expect(call()).rejects.toThrow(reason)
        d.discard(slot)
      }
      const mask = fixed(d, 1, 4, new Float32Array(4).fill(1))
      const shape = { probes: 1, batch: 1, tokens: 4, heads: 2 }
      const attend = (more: object) => d.attention(x, x, x, mask, y, { ...shape, ...more })
      await expect(attend({ keys: 3 })).rejects.toThrow('4 queries of 3 keys')
      await expect(attend({ heads: 3 })).rejects.toThrow('3 heads of 8 columns')
      await load(d, slot, transposed)
      await d.linear(x, slot, null, y, at)
      expect((await d.read(y, 0, 4)).every(Number.isFinite)).toBe(true)
    })
  })

  it.each([
    [1, 1, 8, true],
    [2, 5, 33, true],
    [3, 7, 768, true],
    [2, 3, 100, false],
    [2, 600, 1000, true],
  ])('layerNorm: %d probes of %d rows of %d, affine %s', async (probes, rows, cols, affine) => {
    const difference = await inRows(async (d) => {
      // Rows of different size, mean and, for the first, no variance at all.
      const data = values(probes * rows * cols, 3).map((v, i) => {
        const row = Math.floor(i / cols)
        return row === 0 ? 2 : v * (1 + row) + row
      })
      const x = filled(d, probes * rows, cols, data)
      const scale = affine ? fixed(d, probes, cols, values(probes * cols, 4)) : null
      const bias = affine ? fixed(d, probes, cols, values(probes * cols, 5)) : null
      const y = d.tensor('activations', 'y', probes * rows, cols)
      await d.layerNorm(x, scale, bias, 1e-5, y, { probes, rows })
      return d.read(y, 0, probes * rows)
    })
    expect(difference).toBeLessThan(1e-5)
  })

  /** Tokens, keys before them, heads, head size; the keys of each sequence: [first, end). */
  const attentionCases: [string, number, number, number, number, number, [number, number][]][] = [
    ['one token', 2, 1, 0, 2, 4, [[0, 1]]],
    [
      'left, right and no padding',
      2,
      9,
      0,
      3,
      5,
      [
        [4, 9],
        [0, 3],
        [0, 9],
      ],
    ],
    [
      'a sequence of padding only',
      1,
      6,
      0,
      2,
      8,
      [
        [0, 6],
        [6, 6],
      ],
    ],
    [
      'several heads and sequences',
      3,
      37,
      0,
      4,
      16,
      [
        [0, 37],
        [11, 37],
        [0, 20],
        [36, 37],
      ],
    ],
    ['a long sequence', 1, 600, 0, 12, 2, [[3, 600]]],
    [
      'long sequences of padding first',
      1,
      700,
      0,
      12,
      8,
      [
        [500, 700],
        [700, 700],
      ],
    ],
    [
      'a prefix',
      2,
      7,
      3,
      3,
      6,
      [
        [0, 10],
        [2, 10],
        [0, 8],
      ],
    ],
    [
      'one token after a cache',
      1,
      1,
      40,
      4,
      16,
      [
        [0, 41],
        [17, 41],
        [40, 41],
      ],
    ],
    [
      'one token each after a cache, two probes',
      2,
      1,
      12,
      2,
      8,
      [
        [0, 13],
        [5, 13],
      ],
    ],
    [
      'one token after a long cache',
      1,
      1,
      699,
      12,
      64,
      [
        [0, 700],
        [300, 700],
      ],
    ],
    ['heads apart', 1, 200, 500, 12, 64, [[100, 700]]],
    ['a few tokens after a long cache', 1, 90, 610, 12, 4, [[100, 700]]],
  ]
  it.each(attentionCases)(
    'attention: %s, %d probes, %d tokens after %d, %d heads of %d',
    async (_name, probes, tokens, before, heads, size, spans) => {
      const [batch, cols, keys] = [spans.length, heads * size, before + tokens]
      const rows = probes * batch * tokens
      const mask = Float32Array.from({ length: batch * keys }, (_, i) => {
        const [from, to] = spans[Math.floor(i / keys)]!
        return i % keys >= from && i % keys < to ? 1 : 0
      })
      const scenario = async (d: Device) => {
        const all = probes * batch * keys
        const q = filled(d, rows, cols, values(rows * cols, 6, 2))
        const [k, v] = [7, 8].map((seed) => filled(d, all, cols, values(all * cols, seed, 2)))
        const y = d.tensor('activations', 'y', rows, cols)
        const shape = { probes, batch, tokens, heads, ...(before > 0 && { keys }) }
        await d.attention(q, k!, v!, fixed(d, batch, keys, mask), y, shape)
        return d.read(y, 0, rows)
      }
      // Inputs of twice unit size: sharp soft-max rows.
      expect(await inRows(scenario)).toBeLessThan(3e-5)
    },
  )

  it.each(['relu', 'gelu', 'gelu_new'] as Activation[])('activation: %s', async (kind) => {
    const special = [0, -0, 1e-30, -1e-30, 0.5, -0.5, 3, -3, 9, -9, 30, -30, 1e4, -1e4]
    const data = Float32Array.from([...special, ...values(21 * 40 - special.length, 9, 2)])
    const difference = await inRows(async (d) => {
      const x = filled(d, 21, 40, data)
      await d.activation(kind, x, { probes: 2, rows: 10 }) // the last row is not touched
      return d.read(x, 0, 21)
    })
    expect(difference).toBeLessThan(2e-6)
  })

  it('add, copyColumns, gatherRows and scatterRows are exact', async () => {
    const difference = await inRows(async (d) => {
      const x = filled(d, 9, 13, values(117, 10))
      const y = filled(d, 9, 13, new Float32Array(117).fill(0.5))
      await d.add(x, y, { probes: 2, rows: 4 })
      const z = d.tensor('activations', 'z', 5, 13)
      await d.gatherRows(x, Uint32Array.of(8, 0, 0, 3, 7), z)
      const w = filled(d, 9, 13, new Float32Array(117).fill(-1))
      await d.scatterRows(z, Uint32Array.of(7, 2, 8, 0), w) // the other rows stay
      const u = filled(d, 9, 5, new Float32Array(45).fill(-1))
      await d.copyColumns(x, 4, u, { probes: 2, rows: 4 }) // the last row stays
      const read = [d.read(y, 0, 9), d.read(z, 0, 5), d.read(w, 0, 9), d.read(u, 0, 9)]
      return Float32Array.from((await Promise.all(read)).flatMap((a) => [...a]))
    })
    expect(difference).toBeLessThan(1e-7)
  })

  it('write and read take any row range, and operations keep the order of the calls', async () => {
    await scoped(device, async (d) => {
      const x = filled(d, 6, 2, new Float32Array(12))
      const y = filled(d, 6, 2, new Float32Array(12))
      d.write(x, Float32Array.of(1, 2, 3, 4), 2)
      const first = d.add(x, y, { probes: 1, rows: 6 })
      d.write(x, Float32Array.of(10, 10), 3) // must not reach the first add
      const second = d.add(x, y, { probes: 1, rows: 6 })
      await Promise.all([first, second])
      expect([...(await d.read(y, 2, 2))]).toEqual([2, 4, 13, 14])
      expect([...(await d.read(y, 4, 2))]).toEqual([0, 0, 0, 0])
    })
  })

  it.each([
    [1, 3, 50, 16, 16, 1],
    [2, 7, 133, 24, 32, 2],
    [3, 40, 1000, 20, 96, 3],
  ])(
    'crossEntropy: %d probes of %d rows, V %d, K %d, tiles of %d, %d a slab',
    async (probes, rows, vocabulary, k, height, perSlab) => {
      const total = probes * rows
      const matrix = matrixOf(
        'F16',
        k,
        tilesOver(0, vocabulary, height),
        recipeOf([EPS, -EPS, 0].slice(0, probes), 1),
      )
      const targets = Uint32Array.from({ length: total }, (_, i) => (i * 37 + 1) % vocabulary)
      targets[0] = vocabulary - 1
      const losses = async (d: Device) => {
        const x = filled(d, total, k, values(total * k, 11, 30))
        const state = fixed(d, total, 3, startOf(total))
        await throughSlabs(d, matrix, perSlab, (slot) =>
          d.crossEntropy(x, slot, targets, state, { probes, rows }),
        )
        const s = await d.read(state, 0, total)
        return lossesOf(s)
      }
      expect(await inF32(losses)).toBeLessThan(2e-5)
    },
  )

  it('crossEntropy: a row that is not finite gives a loss that is not, the others stay', async () => {
    await scoped(device, async (d) => {
      const data = values(5 * 8, 12)
      data[3] = NaN
      data[8 + 1] = Infinity
      const x = filled(d, 5, 8, data)
      const state = fixed(d, 5, 3, startOf(5))
      const matrix = matrixOf('F32', 8, tilesOver(0, 40, 16), recipeOf([EPS], 0))
      const targets = Uint32Array.of(1, 2, 3, 30, 39)
      await throughSlabs(d, matrix, 1, (slot) =>
        d.crossEntropy(x, slot, targets, state, { probes: 1, rows: 5 }),
      )
      const finite = Array.from(lossesOf(await d.read(state, 0, 5)), (l) => Number.isFinite(l))
      expect(finite).toEqual([false, dtype === 'F16', true, true, true]) // there is no infinite f16
    })
  })

  it('logits: every tile once, in order, against the reference', async () => {
    const matrix = matrixOf('BF16', 17, tilesOver(0, 70, 32), recipeOf([EPS, -EPS], 2))
    const order: number[] = []
    const difference = await inF32(async (d) => {
      const x = filled(d, 6, 17, values(102, 13))
      const parts: number[] = []
      order.length = 0
      await throughSlabs(d, matrix, 2, (slot) =>
        d.logits(x, slot, { probes: 2, rows: 3 }, (tile, data) => {
          order.push(tile.row0)
          expect(data.length).toBe(6 * tile.rows)
          parts.push(...data)
        }),
      )
      return Float32Array.from(parts)
    })
    expect(order).toEqual([0, 32, 64])
    expect(difference).toBeLessThan(2e-6)
  })
})
