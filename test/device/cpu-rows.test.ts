// A row has the same bits on the cpu device whatever rows go with it: alone, the first of two, among hundreds;
// for any number of threads. Attention: cpu-attention.test.ts. Also the head with several targets a row.
// Alone: npx vitest run test/device/cpu-rows.test.ts

import { describe, expect, it } from 'vitest'
import { openCpu } from '../../src/device/cpu/device.ts'
import type { Addend, Device, TensorDType } from '../../src/device/device.ts'
import type { Workload } from '../../src/device/memory.ts'
import { fromHalves } from '../../src/device/f16.ts'
import type { DType } from '../../src/util/dtypes.ts'
import {
  filled,
  fixed,
  load,
  matrixOf,
  recipeOf,
  scoped,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'

const [K, N] = [96, 150]
const COUNTS = [1, 2, 3, 64, 65, 131, 700]
const PLAIN = { terms: [], scales: [0] }

const ROOM: Workload = {
  ...WORKLOAD,
  probes: 1,
  rows: 700,
  attention: { heads: 1, kvHeads: 1, headSize: 8, groups: 1, listed: 1, longest: 1 },
  headRows: 700,
  targets: 3,
  halfCols: 256,
}

/** What an operation makes of the first `count` rows of x, and columns of the result. */
interface Case {
  readonly name: string
  readonly cols: number
  run(d: Device, x: Float32Array, count: number, dtype: TensorDType): Promise<Float32Array>
}

/** The same matrix of so many rows in every call, in tiles of 64. */
function linear(
  name: string,
  {
    dtype = 'F32' as DType,
    rows = N,
    noise = false,
    transposed = false,
    bias = false,
    relu = false,
    addend = undefined as Addend | undefined,
  },
): Case {
  const recipe = noise ? recipeOf([0.02], 2) : PLAIN
  const [inner, tall] = transposed ? [rows, K] : [K, rows]
  const matrix = { ...matrixOf(dtype, inner, tilesOver(0, tall, 64), recipe), transposed }
  return {
    name,
    cols: rows,
    async run(d, x, count, kept) {
      const at = { probes: 1, rows: count }
      const input = filled(d, count, K, x, kept)
      const y = d.tensor('activations', 'y', count, rows, kept)
      const biases = bias ? fixed(d, 1, rows, values(rows, 8)) : null
      if (addend) await d.project(input, addend, at)
      const slot = d.slot('slots', 'w', matrix.bytes.length)
      await load(d, slot, matrix)
      await d.linear(input, slot, biases, y, at, { relu, ...(addend && { addend }) })
      return d.read(y, 0, count)
    },
  }
}

const lowRank = (rank: number, rows = N): Addend => ({
  kind: 'low-rank',
  rank,
  right: values(rank * K, 4),
  left: values(rows * rank, 5),
  scales: values(rank, 6),
})

const kronecker = (m1: number, m2: number, n1: number, n2: number): Addend => ({
  kind: 'kronecker',
  ...{ terms: 1, m1, m2, n1, n2 },
  right: values(m2 * n2, 4),
  left: values(m1 * n1, 5),
})

/** A matrix of the head, its last tile a single entry. */
const HEAD = matrixOf('F16', K, tilesOver(0, 193, 64), recipeOf([0.02], 1))

const head = (name: string, addend?: Addend): Case[] => [
  {
    name: `crossEntropy${name}`,
    cols: 5,
    async run(d, x, count, kept) {
      const at = { probes: 1, rows: count }
      const input = filled(d, count, K, x, kept)
      const start = Float32Array.from({ length: 5 * count }, (_, i) =>
        i % 5 === 0 ? -Infinity : 0,
      )
      const state = fixed(d, count, 5, start)
      const targets = Uint32Array.from({ length: 3 * count }, (_, i) => (i * 67) % 193)
      if (addend) await d.project(input, addend, at)
      const slot = d.slot('slots', 'w', HEAD.bytes.length)
      await load(d, slot, HEAD)
      await d.crossEntropy(input, slot, targets, state, at, { addend })
      return d.read(state, 0, count)
    },
  },
  {
    name: `logits${name}`,
    cols: 193,
    async run(d, x, count, kept) {
      const at = { probes: 1, rows: count }
      const input = filled(d, count, K, x, kept)
      const all = new Float32Array(count * 193)
      if (addend) await d.project(input, addend, at)
      const slot = d.slot('slots', 'w', HEAD.bytes.length)
      await load(d, slot, HEAD)
      const sink = ({ row0, rows }: { row0: number; rows: number }, data: Float32Array) => {
        for (let row = 0; row < count; row++) {
          all.set(data.subarray(row * rows, (row + 1) * rows), row * 193 + row0)
        }
      }
      await d.logits(input, slot, at, sink, { addend })
      return all
    },
  },
]

const CASES: Case[] = [
  ...(['F32', 'F16', 'BF16'] as const).map((dtype) => linear(`linear ${dtype}`, { dtype })),
  linear('linear with bias, noise and relu', { dtype: 'F16', noise: true, bias: true, relu: true }),
  linear('linear of one column', { rows: 1, bias: true }),
  linear('linear of 65 columns', { rows: 65 }),
  linear('linear of a transposed matrix', { transposed: true, bias: true }),
  linear('linear of a transposed matrix of one column', { transposed: true, rows: 1, bias: true }),
  ...[1, 2, 8].flatMap((rank) => [
    linear(`linear, rank ${rank}`, { bias: true, addend: lowRank(rank) }),
    linear(`linear of one column, rank ${rank}`, { rows: 1, addend: lowRank(rank, 1) }),
    linear(`transposed linear, rank ${rank}`, { transposed: true, addend: lowRank(rank) }),
  ]),
  linear('linear, Kronecker', { bias: true, addend: kronecker(10, 15, 8, 12) }),
  linear('linear, Kronecker of small left factors', { addend: kronecker(1, 150, 1, 96) }),
  linear('linear, Kronecker of small right factors', { addend: kronecker(150, 1, 96, 1) }),
  ...head(''),
  ...head(', rank 1', lowRank(1, 193)),
  {
    name: 'layerNorm',
    cols: K,
    async run(d, x, count, kept) {
      const [input, y] = [
        filled(d, count, K, x, kept),
        d.tensor('activations', 'y', count, K, kept),
      ]
      const [scale, bias] = [2, 3].map((seed) => fixed(d, 1, K, values(K, seed)))
      await d.layerNorm(input, scale!, bias!, 1e-5, y, { probes: 1, rows: count })
      return d.read(y, 0, count)
    },
  },
  ...(['relu', 'gelu', 'gelu_new'] as const).map((kind) => ({
    name: kind,
    cols: K,
    async run(d: Device, x: Float32Array, count: number, kept: TensorDType) {
      const input = filled(d, count, K, x, kept)
      await d.activation(kind, input, { probes: 1, rows: count })
      return d.read(input, 0, count)
    },
  })),
]

describe('a row on the cpu device has the bits it has alone', () => {
  for (const { name, cols, run } of CASES) {
    it(name, async () => {
      const x = values(700 * K, 1)
      for (const dtype of ['F32', 'F16'] as const) {
        const found = []
        for (const threads of [1, 2, 3]) {
          const device = await openCpu({ threads })
          device.reserve({ ...ROOM, halfCols: dtype === 'F16' ? 256 : 0 })
          for (const count of COUNTS) {
            found.push(await scoped(device, (d) => run(d, x.subarray(0, count * K), count, dtype)))
          }
          await device.close()
        }
        const largest = found[COUNTS.length - 1]!
        expect(largest.length).toBe(700 * cols)
        for (const [i, part] of found.entries()) {
          const other = part.findIndex((v, at) => !Object.is(v, largest[at]))
          expect([dtype, COUNTS[i % COUNTS.length], part.length > 0, other]).toEqual([
            dtype,
            COUNTS[i % COUNTS.length],
            true,
            -1,
          ])
        }
      }
    })
  }
})

describe('several targets of a row on the cpu device', () => {
  it('each get the logit that f64 has, beside the same sum', async () => {
    const device = await openCpu({ threads: 2 })
    device.reserve(ROOM)
    const matrix = { ...HEAD, recipe: PLAIN }
    const weights = fromHalves(new Uint16Array(matrix.bytes.slice().buffer))
    const [rows, x] = [3, values(3 * K, 1)]
    const targets = Uint32Array.of(0, 192, 64, 63, 63, 191, 100, 1, 192)
    const state = fixed(
      device,
      rows,
      5,
      Float32Array.from({ length: 15 }, (_, i) => (i % 5 === 0 ? -Infinity : 0)),
    )
    const slot = device.slot('slots', 'w', matrix.bytes.length)
    await load(device, slot, matrix)
    await device.crossEntropy(filled(device, rows, K, x), slot, targets, state, { probes: 1, rows })
    const found = await device.read(state, 0, rows)
    for (let row = 0; row < rows; row++) {
      const logits = Array.from({ length: 193 }, (_, n) => {
        let sum = 0
        for (let k = 0; k < K; k++) sum += x[row * K + k]! * weights[n * K + k]!
        return sum
      })
      const [top, sum, ...of] = found.subarray(row * 5, row * 5 + 5)
      const total = logits.reduce((all, logit) => all + Math.exp(logit), 0)
      expect(top! + Math.log(sum!)).toBeCloseTo(Math.log(total), 5)
      for (let i = 0; i < 3; i++) expect(of[i]).toBeCloseTo(logits[targets[row * 3 + i]!]!, 5)
    }
    await load(device, slot, matrix)
    const few = device.crossEntropy(filled(device, rows, K, x), slot, targets.subarray(1), state, {
      probes: 1,
      rows,
    })
    await expect(few).rejects.toThrow(/8 targets for 1x3 rows, 3 each/)
    await device.close()
  })
})
