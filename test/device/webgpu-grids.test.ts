// Grids of workgroups that do not fit one dimension: the same bits as in one, for every kernel, where
// a dimension is made small; and right results where there are more than the 65,535 of real adapters.
// Alone: npx vitest run test/device/webgpu-grids.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Addend, Device } from '../../src/device/device.ts'
import { queryGroups } from '../../src/device/packed.ts'
import { openAdapter, type OpenAdapter } from '../../src/device/webgpu/adapter.ts'
import { Commands, type Groups } from '../../src/device/webgpu/commands.ts'
import { createHostPart } from '../../src/device/webgpu/host.ts'
import { createRowPart } from '../../src/device/webgpu/rows.ts'
import { Runtime } from '../../src/device/webgpu/runtime.ts'
import { createSlabPart } from '../../src/device/webgpu/slabs.ts'
import { candidates, defaultChoice } from '../../src/device/webgpu/variants.ts'
import { textsOf } from '../helpers/attention.ts'
import {
  filled,
  fixed,
  matrixOf,
  recipeOf,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { ADAPTER } from '../helpers/webgpu.ts'

type Parts = ReturnType<typeof createHostPart> &
  ReturnType<typeof createSlabPart> &
  ReturnType<typeof createRowPart>

/** The device's operations with at most `maxGroups` workgroups per dimension, and the grids of each kernel. */
function operationsOn(adapter: OpenAdapter, maxGroups?: number) {
  const grids = new Map<string, Groups[]>()
  class Noted extends Commands {
    override run(...args: Parameters<Commands['run']>): void {
      const [kernel, , , groups] = args
      grids.set(kernel.spec.name, [...(grids.get(kernel.spec.name) ?? []), groups])
      super.run(...args)
    }
  }
  const runtime = new Runtime(adapter, new Noted(adapter.gpu, maxGroups), 'direct')
  const parts: Parts = {
    ...createHostPart(runtime),
    ...createSlabPart(runtime, defaultChoice(adapter)),
    ...createRowPart(runtime),
  }
  return { device: parts as unknown as Device, grids }
}

const lowRank = (n: number, k: number, rank: number): Addend => ({
  kind: 'low-rank',
  rank,
  scales: values(2 * rank, 23),
  right: values(rank * k, 21, 0.1),
  left: values(n * rank, 22, 0.1),
})

/** Workgroups in a dimension that is made small. */
const FEW = 36

/** Every operation once, with more than FEW workgroups in each of its kernels, and less than FEW * FEW. */
async function everything(d: Device): Promise<Float32Array> {
  d.reserve({ ...WORKLOAD, probes: 2, rows: 300, addendElements: 2 ** 16, tileElements: 2 ** 17 })
  const at = { probes: 2, rows: 300 }
  const [rows, K, N] = [600, 64, 512]
  const results: Promise<Float32Array>[] = []
  const x = filled(d, rows, K, values(rows * K, 1))
  const bias = fixed(d, 2, N, values(2 * N, 2))
  const y = d.tensor('activations', 'y', rows, N)
  const keep = () => results.push(d.read(y, 0, rows))
  const plain = matrixOf('F16', K, tilesOver(0, N, 320), recipeOf([0.02, -0.02], 1))
  await throughSlabs(d, plain, 1, (slot) => d.linear(x, slot, bias, y, at, { relu: true }))
  keep()
  // The same rows as one version, which are not few, and few rows of many columns.
  const shared = matrixOf('F32', K, tilesOver(0, N, N), recipeOf([0], 1))
  const addend = lowRank(N, K, 16)
  await d.project(x, addend, at)
  await throughSlabs(d, shared, 1, (slot) => d.linear(x, slot, bias, y, at, { addend }))
  keep()
  const few = matrixOf('F32', 8, tilesOver(0, 9000, 9000), recipeOf([0], 0))
  const [low, wide] = [filled(d, 8, 8, values(64, 4)), d.tensor('activations', 'wide', 8, 9000)]
  await throughSlabs(d, few, 1, (slot) => d.linear(low, slot, null, wide, { probes: 2, rows: 4 }))
  results.push(d.read(wide, 0, 8))
  const factors: Addend = {
    kind: 'kronecker',
    terms: 2,
    m1: 32,
    m2: 16,
    n1: 8,
    n2: 8,
    right: values(2 * 16 * 8, 24, 0.1),
    left: values(2 * 32 * 2 * 8, 25, 0.1),
  }
  await d.project(x, factors, at)
  await throughSlabs(d, plain, 2, (slot) => d.linear(x, slot, null, y, at, { addend: factors }))
  keep()
  const transposed = {
    ...matrixOf('BF16', N, tilesOver(0, K, 40), recipeOf([0.02, -0.02], 0)),
    transposed: true,
  }
  await throughSlabs(d, transposed, 1, (slot) => d.linear(x, slot, bias, y, at))
  keep()
  const [z, picked] = [0, 1].map(() => d.tensor('activations', 'z', rows, K)) as [
    typeof x,
    typeof x,
  ]
  await d.layerNorm(x, null, null, 1e-5, z, at)
  await d.activation('gelu', z, at)
  await d.activation('gelu_new', z, at)
  await d.activation('relu', z, at)
  await d.add(x, z, at)
  await d.gatherRows(
    z,
    Uint32Array.from({ length: rows }, (_, i) => (i * 7) % rows),
    picked,
  )
  await d.scatterRows(
    picked,
    Uint32Array.from({ length: rows }, (_, i) => rows - 1 - i),
    z,
  )
  await d.copyColumns(z, 20, filled(d, rows, 40, new Float32Array(rows * 40)), at)
  results.push(d.read(z, 0, rows), d.read(picked, 0, rows))
  const sees = queryGroups(textsOf([141, 9, 150]))
  const attended = d.tensor('activations', 'attended', rows, K)
  for (const heads of [4, 32]) {
    const dims = { heads, kvHeads: heads, headSize: K / heads, scale: 1 }
    await d.attention(x, z, picked, attended, 2, sees, dims)
    results.push(d.read(attended, 0, rows))
  }
  const state = fixed(
    d,
    120,
    4,
    Float32Array.from({ length: 480 }, (_, i) => (i % 4 ? 0 : -1e30)),
  )
  const head = { probes: 2, rows: 60 }
  const targets = Uint32Array.from({ length: 240 }, (_, i) => i)
  await throughSlabs(d, plain, 1, (slot) => d.crossEntropy(x, slot, targets, state, head))
  results.push(d.read(state, 0, 120))
  return Float32Array.from((await Promise.all(results)).flatMap((part) => [...part]))
}

function dot(a: Float32Array, at: number, b: Float32Array, bt: number, n: number): number {
  let sum = 0
  for (let i = 0; i < n; i++) sum += a[at + i]! * b[bt + i]!
  return sum
}

describe('grids', () => {
  let adapter: OpenAdapter
  beforeAll(async () => {
    adapter = await openAdapter(ADAPTER)
  })
  afterAll(() => adapter.close())

  it('of two dimensions give the bits of one dimension, in every kernel', async () => {
    const [one, two] = [operationsOn(adapter), operationsOn(adapter, FEW)]
    const [want, got] = [await everything(one.device), await everything(two.device)]
    expect(got.length).toBe(want.length)
    expect(want.every(Number.isFinite)).toBe(true)
    expect(got.findIndex((v, i) => v !== want[i])).toBe(-1)
    expect([...two.grids.keys()].sort()).toEqual([...one.grids.keys()].sort())
    for (const [kernel, grids] of two.grids) {
      expect([kernel, grids.some(([, y = 1]) => y > 1)]).toEqual([kernel, true])
    }
    const large = ([x, y = 1]: Groups) => x > FEW && y === 1
    for (const [kernel, grids] of one.grids) {
      expect([kernel, grids.some(large)]).toEqual([kernel, true])
    }
  })

  it('of more than 65,535 workgroups: attention of many heads', async () => {
    const { device: d, grids } = operationsOn(adapter)
    const [heads, size] = [66_000, 4]
    const cols = heads * size
    const [q, k, v] = [1, 2, 3].map((seed) => filled(d, 2, cols, values(2 * cols, seed)))
    const y = d.tensor('activations', 'y', 2, cols)
    const sees = queryGroups(textsOf([2]))
    d.reserve(WORKLOAD)
    await d.attention(q!, k!, v!, y, 1, sees, { heads, kvHeads: heads, headSize: size, scale: 0 })
    const [first, second] = [await d.read(y, 0, 1), await d.read(y, 1, 1)]
    const [v0, v1] = [await d.read(v!, 0, 1), await d.read(v!, 1, 1)]
    // All scores are alike: the second row gets the mean of both values.
    expect(first).toEqual(v0)
    expect(second.every((value, i) => Math.abs(value - (v0[i]! + v1[i]!) / 2) < 1e-6)).toBe(true)
    expect([...grids.values()].flat()).toEqual([[33_000, 2]])
    for (const tensor of [q!, k!, v!, y]) d.free(tensor)
  })

  it("of more than 65,535 workgroups: KronZO's projection of many rows", async () => {
    const { device: d, grids } = operationsOn(adapter)
    const [m1, m2, n1, n2] = [4, 2, 64, 4]
    const R = Math.ceil((65_600 * candidates(adapter, 'many')[0]!.rows) / n1)
    const [K, N] = [n1 * n2, m1 * m2]
    const factors: Addend = {
      kind: 'kronecker',
      terms: 1,
      m1,
      m2,
      n1,
      n2,
      right: values(m2 * n2, 1),
      left: values(m1 * n1, 2),
    }
    const at = { probes: 1, rows: R }
    d.reserve({ ...WORKLOAD, ...at, headRows: 1, projectionCols: n1 * m2 })
    const x = filled(
      d,
      R,
      K,
      new Float32Array(R * K).map((_, i) => ((i * 37) % 101) / 50 - 1),
    )
    const y = d.tensor('activations', 'y', R, N)
    const zero = {
      ...matrixOf('F32', K, tilesOver(0, N, N), recipeOf([0], 0)),
      bytes: new Uint8Array(4 * N * K),
    }
    await d.project(x, factors, at)
    await throughSlabs(d, zero, 1, (slot) => d.linear(x, slot, null, y, at, { addend: factors }))
    const [rows, got] = [await d.read(x, 0, R), await d.read(y, 0, R)]
    for (const row of [0, 1, R >> 1, R - 1]) {
      for (let n = 0; n < N; n++) {
        let sum = 0
        for (let c = 0; c < n1; c++) {
          const left = factors.left[Math.floor(n / m2) * n1 + c]!
          sum += left * dot(factors.right, (n % m2) * n2, rows, row * K + c * n2, n2)
        }
        expect(Math.abs(got[row * N + n]! - sum)).toBeLessThan(1e-4)
      }
    }
    const projections = [...grids.values()].flat().filter(([x, y = 1]) => x * y > 65_535)
    expect(projections).toHaveLength(1)
  })
})
