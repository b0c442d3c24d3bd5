// Both attention kernels, run without the device around them: against the f64 reference for every form
// of a batch, and that a row's bits do not depend on the block that it is in.
// Alone: npx vitest run test/device/webgpu-attention.test.ts

import { describe, expect, it } from 'vitest'
import { fromHalves, toHalves } from '../../src/device/f16.ts'
import {
  CAUSAL,
  onlyQueries,
  queryGroups,
  type AttentionDims,
  type QueryGroups,
} from '../../src/device/packed.ts'
import { attentionTable, sizesOf, tableWords } from '../../src/device/webgpu/attention-table.ts'
import {
  ATTENTION_ROWS,
  attentionKernel,
  type AttentionSpec,
  USUAL_ATTENTION,
} from '../../src/device/webgpu/kernels/attention.ts'
import {
  attentionSubgroupKernel,
  subgroupAttentionRows,
} from '../../src/device/webgpu/kernels/attention-subgroup.ts'
import type { Element } from '../../src/device/webgpu/kernels/elements.ts'
import { lacking } from '../helpers/adapter.ts'
import { SEEN, textsOf } from '../helpers/attention.ts'
import { needs } from '../helpers/needs.ts'
import { adapter, commands, download, upload } from '../helpers/webgpu-buffers.ts'
import { ADAPTER, randoms } from '../helpers/webgpu.ts'
import { attention } from '../reference/kernels.ts'

const PROBES = 2
const dimsOf = (headSize: number, heads = 4, kvHeads = 2): AttentionDims => ({
  heads,
  kvHeads,
  headSize,
  scale: headSize ** -0.5,
})

interface Kernel {
  readonly rows: number
  spec(headSize: number, type: Element): AttentionSpec
}

const kernelOf = (by: 'invocations' | 'subgroups'): Kernel => {
  const { lanes } = adapter
  const shape = (type: Element) => ({ ...USUAL_ATTENTION, type })
  if (by === 'invocations') {
    const spec = (headSize: number, type: Element) => attentionKernel(headSize, shape(type))
    return { rows: ATTENTION_ROWS, spec }
  }
  const spec = (headSize: number, type: Element) =>
    attentionSubgroupKernel(headSize, lanes, shape(type))
  return { rows: subgroupAttentionRows(lanes), spec }
}

interface Inputs {
  readonly q: Float32Array<ArrayBuffer>
  readonly k: Float32Array<ArrayBuffer>
  readonly v: Float32Array<ArrayBuffer>
}

/** Seeded rows of twice unit size. */
function inputsOf(sees: QueryGroups, { heads, kvHeads, headSize }: AttentionDims): Inputs {
  const of = (rows: number, count: number, seed: number) =>
    randoms(PROBES * rows * count * headSize, seed).map((value) => 2 * value)
  return {
    q: of(sees.queries, heads, 1),
    k: of(sees.keys, kvHeads, 2),
    v: of(sees.keys, kvHeads, 3),
  }
}

/** What a kernel makes of the inputs. */
async function attend(
  kernel: Kernel,
  { q, k, v }: Inputs,
  sees: QueryGroups,
  { heads, kvHeads, headSize, scale }: AttentionDims,
  type: Element = 'f32',
) {
  const operand = (data: Float32Array<ArrayBuffer>) =>
    upload(type === 'f16' ? toHalves(data) : data)
  const { table, blocks } = attentionTable(sees, kernel.rows)
  expect(table.length).toBeLessThanOrEqual(tableWords(sizesOf(sees)))
  const y = operand(new Float32Array(q.length).fill(-7))
  const { queries, keys } = sees
  const groups = PROBES * blocks * heads
  commands.run(
    commands.compile(kernel.spec(headSize, type)),
    { q: operand(q), k: operand(k), v: operand(v), table: upload(table), y },
    { queries, keys, heads, kv_heads: kvHeads, blocks, groups, scale, cap: 0 },
    commands.flat(groups),
  )
  const found = await download(y)
  const got = type === 'f16' ? fromHalves(new Uint16Array(found)) : new Float32Array(found)
  return got.subarray(0, q.length)
}

function expected({ q, k, v }: Inputs, sees: QueryGroups, dims: AttentionDims): Float64Array {
  const y = new Float64Array(q.length)
  const wide = [q, k, v].map((data) => Float64Array.from(data)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  attention(...wide, y, PROBES, sees, dims)
  return y
}

const largest = (got: Float32Array, want: Float64Array) =>
  want.reduce((most, value, i) => Math.max(most, Math.abs(got[i]! - value)), 0)

describe.each([
  ['invocations', [4, 5, 33, 64, 80, 128, 256]],
  ['subgroups', [4, 64, 80, 100, 128]],
] as const)('attention by %s', (by, headSizes) => {
  if (by === 'subgroups') needs(by, ADAPTER)

  it.each(headSizes)('gives what the reference gives, heads of %d', async (headSize) => {
    const dims = dimsOf(headSize)
    for (const [name, sees] of SEEN) {
      if (sees.queries === 0) continue
      const inputs = inputsOf(sees, dims)
      const got = await attend(kernelOf(by), inputs, sees, dims)
      expect(largest(got, expected(inputs, sees, dims)), name).toBeLessThan(4e-6)
    }
  })

  it.each([
    [1, 1],
    [6, 6],
    [6, 3],
    [5, 1],
  ])('shares keys and values among %d heads that have %d', async (heads, kvHeads) => {
    const dims = dimsOf(16, heads, kvHeads)
    const [, sees] = SEEN[2]!
    const inputs = inputsOf(sees, dims)
    const got = await attend(kernelOf(by), inputs, sees, dims)
    expect(largest(got, expected(inputs, sees, dims))).toBeLessThan(4e-6)
  })

  it('widens f16 rows and rounds what it stores', async ({ skip }) => {
    const reason = await lacking('shader-f16', ADAPTER)
    if (reason) skip(reason)
    const dims = dimsOf(64)
    for (const [name, sees] of SEEN) {
      if (sees.queries === 0) continue
      const { q, k, v } = inputsOf(sees, dims)
      const kept = (data: Float32Array) => fromHalves(toHalves(data))
      const inputs = { q: kept(q), k: kept(k), v: kept(v) }
      const got = await attend(kernelOf(by), inputs, sees, dims, 'f16')
      expect(largest(got, expected(inputs, sees, dims)), name).toBeLessThan(4e-6 + 2 ** -11)
    }
  })

  it.each([4, 80, 128])('gives a row the same bits in any block, heads of %d', async (headSize) => {
    const dims = dimsOf(headSize)
    const window = { ...CAUSAL, window: 13 }
    for (const sight of [CAUSAL, window, { causal: false }]) {
      const sees = queryGroups(textsOf([70]), sight)
      const inputs = inputsOf(sees, dims)
      const whole = await attend(kernelOf(by), inputs, sees, dims)
      const cols = dims.heads * headSize
      for (const asked of [[0], [69], [41, 42], [3, 4, 5, 6, 8, 21, 40, 41, 60]]) {
        const queries = Uint32Array.from(asked)
        const rows = (data: Float32Array) =>
          Float32Array.from(
            [0, 1].flatMap((p) =>
              asked.flatMap((row) => [
                ...data.subarray((p * 70 + row) * cols, (p * 70 + row + 1) * cols),
              ]),
            ),
          )
        const some = onlyQueries(queryGroups(textsOf([70]), sight), queries)
        const got = await attend(kernelOf(by), { ...inputs, q: rows(inputs.q) }, some, dims)
        expect(got, `${JSON.stringify(sight)} ${asked.join()}`).toEqual(rows(whole))
      }
    }
  })
})
