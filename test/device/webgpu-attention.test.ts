// Both attention kernels, run without the device around them: against the f64 reference, with
// padding and cached keys, and that a row's bits do not depend on the queries that go with it.
// Alone: npx vitest run test/device/webgpu-attention.test.ts

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openAdapter, type OpenAdapter } from '../../src/device/webgpu/adapter.ts'
import { MAP, USAGE } from '../../src/device/webgpu/buffers.ts'
import { Commands } from '../../src/device/webgpu/commands.ts'
import {
  ATTENTION_ROWS,
  attentionKernel,
  type AttentionSpec,
} from '../../src/device/webgpu/kernels/attention.ts'
import {
  attentionSubgroupKernel,
  subgroupAttentionRows,
} from '../../src/device/webgpu/kernels/attention-subgroup.ts'
import { openReference } from '../reference/device.ts'
import { needs } from '../helpers/needs.ts'
import { ADAPTER, randoms } from '../helpers/webgpu.ts'

const [PROBES, BATCH, HEADS, KEYS] = [2, 3, 2, 45]
const SEQUENCES = PROBES * BATCH
const HEAD_SIZES = [4, 64, 80, 128]
/** Keys of each sequence that are tokens: padding on the left, whose rows see no key, on the right, none. */
const SPANS = [
  [9, KEYS],
  [0, 40],
  [0, KEYS],
] as const
const MASK = Float32Array.from({ length: BATCH * KEYS }, (_, i) => {
  const [from, to] = SPANS[Math.floor(i / KEYS)]!
  return Number(i % KEYS >= from && i % KEYS < to)
})

interface Kernel {
  readonly rows: number
  spec(headSize: number): AttentionSpec
}

describe('attention kernels', () => {
  let adapter: OpenAdapter
  let commands: Commands
  beforeAll(async () => {
    adapter = await openAdapter(ADAPTER)
    commands = new Commands(adapter.gpu)
  })
  afterAll(() => adapter.close())

  const kernelOf = (by: 'invocations' | 'subgroups'): Kernel => {
    const { lanes } = adapter
    if (by === 'invocations') return { rows: ATTENTION_ROWS, spec: attentionKernel }
    const spec = (headSize: number) => attentionSubgroupKernel(headSize, lanes)
    return { rows: subgroupAttentionRows(lanes), spec }
  }

  const storage = (data: Float32Array<ArrayBuffer>) => {
    const usage = USAGE.storage | USAGE.copyDst | USAGE.copySrc
    const buffer = adapter.gpu.createBuffer({ size: data.byteLength, usage })
    commands.upload(buffer, 0, data)
    return buffer
  }

  /** What the last `tokens` positions of every sequence get: [SEQUENCES * tokens, HEADS * D]. */
  async function attend(kernel: Kernel, headSize: number, tokens: number) {
    const inputs = inputsOf(headSize, tokens)
    const [q, k, v, mask] = [inputs.q, inputs.k, inputs.v, MASK].map(storage)
    const y = storage(new Float32Array(inputs.q.length))
    const out = adapter.gpu.createBuffer({ size: y.size, usage: USAGE.mapRead | USAGE.copyDst })
    commands.run(
      commands.compile(kernel.spec(headSize)),
      { q: q!, k: k!, v: v!, key_mask: mask!, y },
      {
        batch: BATCH,
        tokens,
        keys: KEYS,
        heads: HEADS,
        sequences: SEQUENCES,
        scale: headSize ** -0.5,
      },
      commands.flat(Math.ceil(tokens / kernel.rows) * HEADS * SEQUENCES),
    )
    commands.copy(y, 0, out, 0, y.size)
    commands.flush()
    await out.mapAsync(MAP.read)
    commands.check()
    return new Float32Array(out.getMappedRange().slice(0))
  }

  describe.each(['invocations', 'subgroups'] as const)('by %s', (by) => {
    if (by === 'subgroups') needs(by, ADAPTER)

    it.each(HEAD_SIZES)('give what the reference gives, heads of %d', async (headSize) => {
      for (const tokens of [KEYS, 7, 1]) {
        const want = await expected(headSize, tokens)
        const got = await attend(kernelOf(by), headSize, tokens)
        const errors = got.map((value, i) => Math.abs(value - want[i]!))
        expect(Math.max(...errors), `${tokens} tokens`).toBeLessThan(3e-6)
      }
    })

    it.each(HEAD_SIZES)('give a row the same bits with a cache, heads of %d', async (headSize) => {
      const whole = await attend(kernelOf(by), headSize, KEYS)
      for (const tokens of [18, 1]) {
        const last = lastRows(whole, headSize, tokens)
        const cached = await attend(kernelOf(by), headSize, tokens)
        expect(Buffer.compare(Buffer.from(cached.buffer), Buffer.from(last.buffer))).toBe(0)
      }
    })
  })
})

/** q of the last `tokens` positions, and all keys and values. */
function inputsOf(headSize: number, tokens: number) {
  const count = SEQUENCES * KEYS * HEADS * headSize
  const [q, k, v] = [1, 2, 3].map((seed) => randoms(count, seed).map((value) => 2 * value))
  return { q: lastRows(q!, headSize, tokens), k: k!, v: v! }
}

/** The last `tokens` of KEYS rows of every sequence. */
function lastRows(data: Float32Array<ArrayBuffer>, headSize: number, tokens: number) {
  const cols = HEADS * headSize
  const rows = Array.from({ length: SEQUENCES }, (_, s) => [
    ...data.subarray(((s + 1) * KEYS - tokens) * cols, (s + 1) * KEYS * cols),
  ])
  return Float32Array.from(rows.flat())
}

async function expected(headSize: number, tokens: number): Promise<Float32Array> {
  const device = openReference()
  const tensor = (label: string, rows: number, data: Float32Array) => {
    const made = device.tensor('activations', label, rows, data.length / rows)
    device.write(made, data)
    return made
  }
  const { q, k, v } = inputsOf(headSize, tokens)
  const [rows, all] = [SEQUENCES * tokens, SEQUENCES * KEYS]
  const y = device.tensor('activations', 'y', rows, HEADS * headSize)
  const operands = [tensor('q', rows, q), tensor('k', all, k), tensor('v', all, v)] as const
  const shape = { probes: PROBES, batch: BATCH, tokens, heads: HEADS, keys: KEYS }
  await device.attention(...operands, tensor('mask', BATCH, MASK), y, shape)
  return device.read(y, 0, rows)
}
