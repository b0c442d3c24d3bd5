// Attention of the cpu device: values against loops in f64 for all that queries may see, and what only this
// device promises: a text's rows have the same bits alone, among others, behind a parent and as single
// queries, for any number of threads, in scratch that memory.ts knows.
// Alone: npx vitest run test/device/cpu-attention.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  blocksAtOnce,
  callElements,
  FRAMED,
  planAttention,
} from '../../src/device/cpu/attention-plan.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import { cpuScratch } from '../../src/device/cpu/memory.ts'
import type { Device, TensorDType } from '../../src/device/device.ts'
import { fromHalves, toHalves } from '../../src/device/f16.ts'
import type { Workload } from '../../src/device/memory.ts'
import {
  CAUSAL,
  onlyQueries,
  queryGroups,
  type AttentionDims,
  type QueryGroups,
  type Segment,
} from '../../src/device/packed.ts'
import { filled, scoped, values, WORKLOAD } from '../helpers/devices.ts'

const dimsOf = (heads: number, kvHeads: number, headSize: number): AttentionDims => ({
  heads,
  kvHeads,
  headSize,
  scale: headSize ** -0.5,
})

const workloadOf = (dims: AttentionDims, probes: number, sees: QueryGroups): Workload => ({
  ...WORKLOAD,
  probes,
  rows: sees.queries,
  attention: {
    ...dims,
    groups: sees.groups.length,
    listed: sees.groups.reduce((sum, { keys }) => sum + keys.length, 0),
    longest: Math.max(...sees.groups.map(({ keys }) => keys.length)),
  },
})

interface Rows {
  readonly q: Float32Array
  readonly k: Float32Array
  readonly v: Float32Array
}

async function attend(
  device: Device,
  { q, k, v }: Rows,
  probes: number,
  sees: QueryGroups,
  dims: AttentionDims,
  dtype: TensorDType,
): Promise<Float32Array> {
  return scoped(device, async (d) => {
    const [ofQ, ofK] = [dims.heads * dims.headSize, dims.kvHeads * dims.headSize]
    const [rows, keys] = [probes * sees.queries, probes * sees.keys]
    const [tq, tk, tv] = [
      filled(d, rows, ofQ, q, dtype),
      filled(d, keys, ofK, k, dtype),
      filled(d, keys, ofK, v, dtype),
    ]
    const y = filled(d, rows, ofQ, new Float32Array(rows * ofQ).fill(NaN), dtype)
    await d.attention(tq, tk, tv, y, probes, sees, dims)
    return d.read(y, 0, rows)
  })
}

/** The contract's sums in f64, one query and head after the other. */
function expected({ q, k, v }: Rows, probes: number, sees: QueryGroups, dims: AttentionDims) {
  const { heads, kvHeads, headSize: D, scale } = dims
  const y = new Float64Array(probes * sees.queries * heads * D)
  for (let p = 0; p < probes; p++) {
    for (const { query0, queries, keys, from, to } of sees.groups) {
      for (let i = 0; i < queries; i++) {
        const seen = keys.subarray(from[i], to[i])
        for (let h = 0; h < heads; h++) {
          const row = ((p * sees.queries + query0 + i) * heads + h) * D
          const ofHead = Math.floor((h * kvHeads) / heads)
          const starts = Array.from(seen, (j) => ((p * sees.keys + j) * kvHeads + ofHead) * D)
          const scores = starts.map((key) => {
            let sum = 0
            for (let d = 0; d < D; d++) sum += q[row + d]! * k[key + d]!
            return sum * scale
          })
          const top = Math.max(...scores)
          const weights = scores.map((score) => Math.exp(score - top))
          const sum = weights.reduce((a, b) => a + b)
          for (const [n, key] of starts.entries()) {
            const weight = weights[n]! / sum
            for (let d = 0; d < D; d++) y[row + d]! += weight * v[key + d]!
          }
        }
      }
    }
  }
  return y
}

const rounded = (values: Float32Array, dtype: TensorDType) =>
  dtype === 'F16' ? fromHalves(toHalves(values)) : values

function rowsOf(probes: number, sees: QueryGroups, dims: AttentionDims, dtype: TensorDType): Rows {
  const of = (rows: number, heads: number, seed: number) =>
    rounded(values(probes * rows * heads * dims.headSize, seed), dtype)
  const { heads, kvHeads } = dims
  return {
    q: of(sees.queries, heads, 1),
    k: of(sees.keys, kvHeads, 2),
    v: of(sees.keys, kvHeads, 3),
  }
}

/** Texts of so many tokens, one behind the other. */
function texts(...tokens: number[]): Segment[] {
  let row0 = 0
  return tokens.map((rows) => ({ row0: (row0 += rows) - rows, rows }))
}

/** A prompt with two answers, of which one goes on twice, between two other texts. */
const TREE: Segment[] = [
  { row0: 0, rows: 3 },
  { row0: 3, rows: 20 },
  { row0: 23, rows: 1, parent: 1 },
  { row0: 24, rows: 7, parent: 1 },
  { row0: 31, rows: 2, parent: 3 },
  { row0: 33, rows: 5, parent: 3 },
  { row0: 38, rows: 17 },
]

describe('attention of the cpu device', () => {
  let device: Device
  beforeAll(async () => {
    device = await openCpu({ threads: 2 })
  })
  afterAll(() => device.close())

  const cases: [string, QueryGroups, AttentionDims][] = [
    [
      'texts of one length, in place',
      queryGroups(texts(...Array<number>(4).fill(32)), CAUSAL),
      dimsOf(3, 3, 8),
    ],
    ['texts of many lengths', queryGroups(texts(1, 70, 16, 2, 33, 70), CAUSAL), dimsOf(4, 4, 16)],
    ['answers that share a prompt', queryGroups(TREE, CAUSAL), dimsOf(2, 2, 32)],
    [
      'some queries',
      onlyQueries(queryGroups(TREE, CAUSAL), Uint32Array.of(0, 22, 24, 37, 38, 54)),
      dimsOf(2, 2, 8),
    ],
    ['a prefix', queryGroups(TREE, CAUSAL, 5), dimsOf(2, 2, 8)],
    ['a window', queryGroups(texts(40, 7), { causal: true, window: 6 }), dimsOf(2, 2, 8)],
    ['whole texts', queryGroups(texts(40, 7), { causal: false }), dimsOf(2, 2, 8)],
    ['heads that share keys', queryGroups(TREE, CAUSAL), dimsOf(6, 2, 16)],
    ['heads that share the only keys', queryGroups(texts(40), CAUSAL), dimsOf(4, 1, 16)],
    ['long heads', queryGroups(texts(40, 90), CAUSAL), dimsOf(1, 1, 160)],
    ['a scale of its own', queryGroups(texts(9, 3), CAUSAL), { ...dimsOf(2, 2, 8), scale: 1 }],
    ['query blocks of all heads', queryGroups(texts(900, 5), CAUSAL), dimsOf(4, 4, 16)],
    ['a few heads at a time', queryGroups(texts(3, 260), CAUSAL), dimsOf(12, 12, 128)],
    ['a few shared heads at a time', queryGroups(texts(260), CAUSAL), dimsOf(12, 6, 256)],
  ]
  for (const [name, sees, dims] of cases) {
    for (const dtype of ['F32', 'F16'] as const) {
      it(`is that of f64: ${name}, ${dtype}`, async () => {
        const probes = sees.queries > 250 ? 1 : 2
        device.reserve(workloadOf(dims, probes, sees))
        const rows = rowsOf(probes, sees, dims, dtype)
        const y = expected(rows, probes, sees, dims)
        const found = await attend(device, rows, probes, sees, dims, dtype)
        const error = y.reduce((most, v, i) => {
          const off = Math.abs(v - found[i]!) - (dtype === 'F16' ? Math.abs(v) * 2 ** -11 : 0)
          return off <= most ? most : off
        }, 0)
        expect(error).toBeLessThan(5e-6)
      })
    }
  }

  it('keeps what one text sees from the others, a NaN too', async () => {
    const [sees, dims] = [queryGroups(texts(5, 18, 3), CAUSAL), dimsOf(2, 2, 8)]
    device.reserve(workloadOf(dims, 1, sees))
    const rows = rowsOf(1, sees, dims, 'F32')
    for (const a of [rows.q, rows.k, rows.v]) a.fill(NaN, 5 * 16, 23 * 16)
    const y = await attend(device, rows, 1, sees, dims, 'F32')
    const finite = (part: Float32Array) => part.every((v) => Number.isFinite(v))
    expect([finite(y.subarray(0, 5 * 16)), finite(y.subarray(23 * 16))]).toEqual([true, true])
    expect(y.subarray(5 * 16, 23 * 16).every((v) => Number.isNaN(v))).toBe(true)
  })

  it('beyond what was reserved is an error', async () => {
    const [small, large] = [8, 200].map((rows) => queryGroups(texts(rows), CAUSAL))
    const dims = dimsOf(2, 2, 8)
    device.reserve(workloadOf(dims, 1, small!))
    const rows = rowsOf(1, large!, dims, 'F32')
    await expect(attend(device, rows, 1, large!, dims, 'F32')).rejects.toThrow(
      /reserve\(\) was told/,
    )
  })
})

describe('a row of attention on the cpu device', () => {
  const alike = (found: Float32Array, one: Float32Array, what: string) => {
    const different = one.findIndex((v, i) => !Object.is(v, found[i]))
    expect([what, found.length, different]).toEqual([what, one.length, -1])
  }
  const joined = (...parts: Float32Array[]) => {
    const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
    let next = 0
    for (const part of parts) all.set(part, (next += part.length) - part.length)
    return all
  }
  const each = (rows: Rows, of: (part: keyof Rows) => Float32Array): Rows => ({
    ...rows,
    q: of('q'),
    k: of('k'),
    v: of('v'),
  })

  /** All that a text of so many tokens may be part of, with one dtype and two numbers of threads. */
  async function check(
    devices: readonly Device[],
    tokens: number,
    dims: AttentionDims,
    dtype: TensorDType,
  ) {
    const name = `${tokens} tokens, ${dims.heads} heads of ${dims.headSize}, ${dtype}`
    const run = (d: Device, rows: Rows, probes: number, sees: QueryGroups) =>
      attend(d, rows, probes, sees, dims, dtype)
    const see = (segments: Segment[], queries?: number[]) => {
      const all = queryGroups(segments)
      return queries ? onlyQueries(all, Uint32Array.from(queries)) : all
    }
    const alone = see(texts(tokens))
    const own = rowsOf(1, alone, dims, dtype)
    const width = dims.heads * dims.headSize
    const y = await run(devices[0]!, own, 1, alone)
    for (const d of devices) {
      alike(await run(d, own, 1, alone), y, `${name}, threads`)
      for (const [before, behind] of [
        [5, 70],
        [tokens, tokens],
      ] as const) {
        const many = see(texts(before, tokens, behind))
        const others = rowsOf(2, many, dims, dtype)
        const rows = each(others, (part) => {
          const [all, w] = [others[part].slice(), own[part].length / tokens]
          all.set(own[part], before * w)
          all.set(own[part], (many.queries + before) * w)
          return all
        })
        const found = await run(d, rows, 2, many)
        for (const first of [before, many.queries + before]) {
          alike(found.subarray(first * width, (first + tokens) * width), y, `${name}, among others`)
        }
      }
      for (const rows of new Set([1, tokens >> 1, tokens - 1])) {
        if (rows < 1 || rows === tokens) continue
        const split = see([
          { row0: 0, rows },
          { row0: rows, rows: tokens - rows, parent: 0 },
        ])
        alike(await run(d, own, 1, split), y, `${name}, behind ${rows}`)
        const some = [rows - 1, tokens - 1]
        const taken = (a: Float32Array) =>
          joined(...some.map((row) => a.subarray(row * width, (row + 1) * width)))
        const part = await run(d, { ...own, q: taken(own.q) }, 1, see(texts(tokens), some))
        alike(part, taken(y), `${name}, queries ${some.join()}`)
        const last = { ...own, q: own.q.subarray((tokens - 1) * width) }
        const single = await run(d, last, 1, see(texts(tokens), [tokens - 1]))
        alike(single, y.subarray((tokens - 1) * width), `${name}, last query`)
      }
    }
  }

  const HEADS = [
    [4, 4, 8],
    [4, 2, 16],
    [3, 3, 32],
    [12, 12, 64],
    [2, 1, 80],
    [1, 1, 64],
    [2, 2, 128],
    [2, 2, 160],
  ] as const
  // f16 rows go through the same calls, by way of frames: fewer of them show it.
  it.each([
    ['F32', HEADS, [1, 2, 15, 16, 17, 64, 65, 128, 200, 600]],
    ['F16', HEADS.slice(3, 6), [1, 2, 17, 65, 200]],
  ] as const)(
    'has the same bits alone, among others and behind a parent, %s',
    async (dtype, sizes, lengths) => {
      const devices = [await openCpu({ threads: 1 }), await openCpu({ threads: 2 })]
      for (const [heads, kvHeads, headSize] of sizes) {
        const dims = dimsOf(heads, kvHeads, headSize)
        const room = queryGroups(texts(...Array<number>(3).fill(600)), CAUSAL)
        for (const d of devices) d.reserve(workloadOf(dims, 2, room))
        for (const tokens of lengths) await check(devices, tokens, dims, dtype)
      }
      for (const d of devices) await d.close()
    },
  )
})

describe('attention scratch of the cpu device', () => {
  const scratchOf = (dims: AttentionDims, probes: number, segments: Segment[]) =>
    cpuScratch(workloadOf(dims, probes, queryGroups(segments, CAUSAL))).attention

  it('is one call of 12 MiB, for one text of 2048 tokens of the largest OPT too', () => {
    for (const [heads, headSize] of [
      [12, 64],
      [32, 64],
      [96, 128],
    ] as const) {
      const dims = dimsOf(heads, heads, headSize)
      expect(scratchOf(dims, 2, texts(...Array<number>(16).fill(64)))).toBe(3 * 2 ** 20)
      expect(scratchOf(dims, 2, texts(...Array<number>(1).fill(2048)))).toBe(3 * 2 ** 20)
    }
    expect(scratchOf(dimsOf(2, 2, 8), 1, texts(...Array<number>(1).fill(4)))).toBeLessThan(4000)
  })

  it('is enough for every smaller batch of the same model', () => {
    for (const [heads, kvHeads, headSize] of [
      [12, 12, 64],
      [96, 96, 128],
      [64, 8, 128],
      [64, 64, 16],
      [2, 2, 8],
      [3, 1, 256],
    ] as const) {
      const dims = dimsOf(heads, kvHeads, headSize)
      for (const [count, tokens] of [
        [16, 64],
        [4, 700],
        [1, 2048],
        [1, 9000],
        [3, 1],
      ] as const) {
        const room = scratchOf(dims, 2, texts(...Array<number>(count).fill(tokens)))
        for (let t = 1; t <= tokens; t += 1 + (t >> 2)) {
          for (let many = 1; many <= count; many++) {
            const largest = largestCall(dims, 2, texts(...Array<number>(many).fill(t)))
            expect(largest).toBeLessThanOrEqual(room)
          }
        }
      }
    }
  })

  /** Elements of the largest call, with all rows in frames. */
  function largestCall(dims: AttentionDims, probes: number, segments: Segment[]): number {
    const { classes, long } = planAttention(queryGroups(segments, CAUSAL), dims)
    const shape = { shared: dims.heads / dims.kvHeads, headSize: dims.headSize }
    const ofClasses = classes.map(({ queries, keys, blocks }) => {
      const one = { ...shape, queries, keys, kvHeads: dims.kvHeads, blocks: 1 }
      const most = Math.min(probes * blocks.length, blocksAtOnce(one, FRAMED))
      return callElements({ ...one, blocks: most }, FRAMED)
    })
    const ofLong = long.map(({ kvHeads, keys, classes: blocks }) => {
      const queries = Math.max(...blocks.map((block) => block.queries))
      return callElements({ ...shape, queries, keys, kvHeads, blocks: 1 }, FRAMED)
    })
    return Math.max(...ofClasses, ...ofLong)
  }
})
