// Every operation of the device contract on every device, against plain f64 loops. Each bound is on
// the largest absolute difference, for inputs of about unit size.
// Weights, slots, ledger and failures: device-weights.test.ts.
// Alone: npx vitest run test/device/device.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Activation, Device } from '../../src/device/device.ts'
import { queryGroups, type AttentionDims, type QueryGroups } from '../../src/device/packed.ts'
import { SEEN, SEEN_LONG, textsOf } from '../helpers/attention.ts'
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

/** The state crossEntropy starts from with n targets a row, and the losses it ends in. */
const startOf = (rows: number, n = 1) =>
  Float32Array.from({ length: rows * (2 + n) }, (_, i) => (i % (2 + n) ? 0 : -Infinity))
const lossesOf = (s: Float32Array, n = 1) =>
  Float32Array.from({ length: (s.length / (2 + n)) * n }, (_, i) => {
    const row = Math.floor(i / n) * (2 + n)
    return s[row]! + Math.log(s[row + 1]!) - s[row + 2 + (i % n)]!
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
      const sees = queryGroups(textsOf([4]))
      const attend = (more: Partial<AttentionDims>) => {
        const dims = { heads: 2, kvHeads: 2, headSize: 4, scale: 1, ...more }
        return d.attention(x, x, x, y, 1, sees, dims)
      }
      await expect(attend({ heads: 3 })).rejects.toThrow('3 heads of 4 in 8 columns')
      await expect(attend({ kvHeads: 1 })).rejects.toThrow('1 heads of 4 in 8 columns')
      const six = filled(d, 4, 12, values(48, 2))
      const shared = { heads: 3, kvHeads: 2, headSize: 4, scale: 1 }
      await expect(d.attention(six, x, x, y, 1, sees, shared)).rejects.toThrow('3 heads share 2')
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

  it.each([
    [1, 1, 8, 1, 0],
    [2, 5, 33, 1, 1],
    [3, 7, 64, 3, 0],
    [2, 300, 1000, 1, 1],
    [2, 40, 20, 6, 1],
  ])(
    'rmsNorm: %d probes of %d rows of %d, %d groups a row, offset %d',
    async (probes, rows, size, groups, offset) => {
      const cols = size * groups
      const difference = await inRows(async (d) => {
        const data = values(probes * rows * cols, 3).map((v, i) => v * (1 + Math.floor(i / size)))
        data.fill(0, 0, size) // the first group is nothing but eps
        const x = filled(d, probes * rows, cols, data)
        const scale = fixed(d, probes, size, values(probes * size, 4))
        const y = d.tensor('activations', 'y', probes * rows, cols)
        await d.rmsNorm(x, scale, 1e-5, y, { probes, rows }, { offset })
        return d.read(y, 0, probes * rows)
      })
      expect(difference).toBeLessThan(1e-5)
    },
  )

  it.each([
    [1, 1, 1, 8, 8],
    [2, 5, 3, 10, 10],
    [3, 7, 2, 12, 8],
    [2, 500, 9, 64, 64],
  ])(
    'rope: %d probes of %d rows, %d heads of %d, %d columns of them',
    async (probes, rows, heads, headSize, d0) => {
      const cols = heads * headSize
      const angles = values((rows + 1) * (d0 / 2), 5, 3)
      const table = Float32Array.from({ length: (rows + 1) * d0 }, (_, i) => {
        const [row, at] = [Math.floor(i / d0), i % d0]
        const angle = angles[row * (d0 / 2) + (at % (d0 / 2))]!
        return at < d0 / 2 ? Math.cos(angle) : Math.sin(angle)
      })
      const difference = await inRows(async (d) => {
        const x = filled(d, probes * rows + 1, cols, values((probes * rows + 1) * cols, 6))
        await d.rope(x, fixed(d, rows + 1, d0, table), headSize, { probes, rows })
        return d.read(x, 0, probes * rows + 1) // the last row is not touched
      })
      expect(difference).toBeLessThan(1e-6)
    },
  )

  it('norms and ropes of other columns are refused', async () => {
    await scoped(device, async (d) => {
      const x = filled(d, 4, 12, values(48, 1))
      const y = d.tensor('activations', 'y', 4, 12)
      const at = { probes: 1, rows: 4 }
      const odd = fixed(d, 4, 5, values(20, 2))
      await expect(d.rmsNorm(x, odd, 1e-5, y, at)).rejects.toThrow('groups of 5 columns in the 12')
      await expect(d.rope(x, odd, 5, at)).rejects.toThrow('groups of 5 columns in the 12')
      await expect(d.rope(x, odd, 6, at)).rejects.toThrow('5 columns of angles for heads of 6')
    })
  })

  /** Everything that attention gives, rows of q, k and v being of twice unit size: sharp soft-max rows. */
  const attended =
    (probes: number, sees: QueryGroups, dims: AttentionDims) =>
    async (d: Device): Promise<Float32Array> => {
      const { heads, kvHeads, headSize } = dims
      const [rows, all] = [probes * sees.queries, probes * sees.keys]
      const [cols, kvCols] = [heads * headSize, kvHeads * headSize]
      const q = filled(d, rows, cols, values(rows * cols, 6, 2))
      const [k, v] = [7, 8].map((seed) => filled(d, all, kvCols, values(all * kvCols, seed, 2)))
      const y = d.tensor('activations', 'y', rows, cols)
      await d.attention(q, k!, v!, y, probes, sees, dims)
      return d.read(y, 0, rows)
    }

  it.each(SEEN.filter(([, { queries }]) => queries > 0))('attention: %s', async (_name, sees) => {
    for (const [probes, heads, kvHeads, headSize] of [
      [1, 2, 2, 4],
      [2, 3, 3, 5],
      [3, 4, 2, 16],
      [2, 6, 1, 12],
    ] as const) {
      const dims = { heads, kvHeads, headSize, scale: headSize ** -0.5 }
      expect(await inRows(attended(probes, sees, dims)), JSON.stringify(dims)).toBeLessThan(3e-5)
    }
  })

  it.each(SEEN_LONG)('attention: %s', async (_name, sees) => {
    const dims = { heads: 12, kvHeads: 4, headSize: 8, scale: 0.25 }
    expect(await inRows(attended(1, sees, dims))).toBeLessThan(3e-5)
  })

  it.each([
    ['of eight columns', 8],
    ['of five', 5],
  ])('attention: scores are capped, heads %s', async (_name, headSize) => {
    for (const [, sees] of SEEN.filter(([, { queries }]) => queries > 0)) {
      const dims = { heads: 4, kvHeads: 2, headSize, scale: 0.5, cap: 2.5 }
      expect(await inRows(attended(2, sees, dims))).toBeLessThan(3e-5)
    }
  })

  it('attention: what another text holds may be infinite or NaN', async () => {
    await scoped(device, async (d) => {
      const sees = queryGroups(textsOf([9, 23]), { causal: true, window: 12 })
      const cols = 16
      const dims = { heads: 2, kvHeads: 2, headSize: 8, scale: 0.3 }
      const of = (seed: number, bad: readonly number[]) => {
        const data = values(32 * cols, seed)
        for (const row of bad) data.fill(row % 2 ? NaN : Infinity, row * cols, (row + 1) * cols)
        return filled(d, 32, cols, data)
      }
      const y = d.tensor('activations', 'y', 32, cols)
      const attend = async (bad: readonly number[]) => {
        await d.attention(of(1, []), of(2, bad), of(3, bad), y, 1, sees, dims)
        return d.read(y, 0, 32)
      }
      const whole = await attend([])
      const part = await attend([0, 1, 6, 7, 8])
      const kept = Array.from({ length: 23 }, (_, i) => 9 + i)
      for (const row of kept) {
        const [first, end] = [row * cols, (row + 1) * cols]
        expect(part.subarray(first, end), `row ${row}`).toEqual(whole.subarray(first, end))
      }
    })
  })

  const special = [0, -0, 1e-30, -1e-30, 0.5, -0.5, 3, -3, 9, -9, 30, -30, 1e4, -1e4]
  const data = Float32Array.from([...special, ...values(21 * 40 - special.length, 9, 2)])
  const ACTIVATIONS: Activation[] = ['relu', 'gelu', 'gelu_new', 'silu']

  it.each(ACTIVATIONS)('activation: %s', async (kind) => {
    const difference = await inRows(async (d) => {
      const x = filled(d, 21, 40, data)
      await d.activation(kind, x, { probes: 2, rows: 10 }) // the last row is not touched
      return d.read(x, 0, 21)
    })
    expect(difference).toBeLessThan(2e-6)
  })

  it.each(ACTIVATIONS)('gate: %s', async (kind) => {
    const difference = await inRows(async (d) => {
      const [x, y] = [filled(d, 21, 40, values(21 * 40, 10)), filled(d, 21, 40, data)]
      await d.gate(kind, x, y, { probes: 2, rows: 10 }) // the last row is not touched
      return d.read(y, 0, 21)
    })
    expect(difference).toBeLessThan(4e-6)
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
    [1, 3, 50, 16, 16, 1, 1, undefined],
    [2, 7, 133, 24, 32, 2, 5, undefined],
    [3, 40, 1000, 20, 96, 3, 2, undefined],
    [1, 2, 90, 8, 40, 1, 70, undefined],
    [2, 7, 133, 24, 33, 2, 5, 2.5],
    [1, 3, 65, 16, 32, 1, 1, 30],
  ])(
    'crossEntropy: %d probes of %d rows, V %d, K %d, tiles of %d, %d a slab, %d targets a row, cap %s',
    async (probes, rows, vocabulary, k, height, perSlab, n, cap) => {
      device.reserve({ ...WORKLOAD, targets: n, halfCols: dtype === 'F16' ? 1024 : 0 })
      const total = probes * rows
      const matrix = matrixOf(
        'F16',
        k,
        tilesOver(0, vocabulary, height),
        recipeOf([EPS, -EPS, 0].slice(0, probes), 1),
      )
      const targets = Uint32Array.from({ length: total * n }, (_, i) => (i * 37 + 1) % vocabulary)
      targets[0] = vocabulary - 1
      const losses = async (d: Device) => {
        const x = filled(d, total, k, values(total * k, 11, 30))
        const state = fixed(d, total, 2 + n, startOf(total, n))
        await throughSlabs(d, matrix, perSlab, (slot) =>
          d.crossEntropy(
            x,
            slot,
            targets,
            state,
            { probes, rows },
            cap === undefined ? {} : { cap },
          ),
        )
        const s = await d.read(state, 0, total)
        return n > 0 ? lossesOf(s, n) : s.filter((_, i) => i % 2 === 0)
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
