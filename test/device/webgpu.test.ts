// What is special to the webgpu device: choosing an adapter, ends of life, reads, hostile
// values. Uploads are in webgpu-transfer.test.ts, kernels in webgpu-kernels.test.ts, and the
// operations themselves in device.test.ts.
// Alone: npx vitest run test/device/webgpu.test.ts

import { execFileSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import type { Device } from '../../src/device/device.ts'
import { queryGroups } from '../../src/device/packed.ts'
import { openWebgpu } from '../../src/device/webgpu/device.ts'
import { UserError } from '../../src/util/errors.ts'
import { DEFAULT_ADAPTER } from '../helpers/adapter.ts'
import { textsOf } from '../helpers/attention.ts'
import { ADAPTER, adapters, plain, randoms, SOFTWARE, workload } from '../helpers/webgpu.ts'
import { openReference } from '../reference/device.ts'

const DEVICE = new URL('../../src/device/webgpu/device.ts', import.meta.url).href

describe('adapters', () => {
  it('are listed best first, with their kind', () => {
    const kinds = adapters.map((a) => Number(a.software))
    expect(kinds).toEqual(kinds.toSorted())
  })

  it('that are software also go by the name of their driver', async ({ skip }) => {
    skip(!SOFTWARE, `"${ADAPTER}" is hardware`)
    const [short] = ADAPTER.split(' ')
    const device = await openWebgpu({ adapter: short === DEFAULT_ADAPTER ? 'lavapipe' : short! })
    expect(device.info).toMatchObject({ kind: 'webgpu', software: true })
    await device.close()
  })

  it('are refused by a name that no adapter has, with the names there are', async () => {
    await expect(openWebgpu({ adapter: 'voodoo2' })).rejects.toThrow(
      `"voodoo2": this machine has "${ADAPTER}"`,
    )
    await expect(openWebgpu({ adapter: 'voodoo2' })).rejects.toBeInstanceOf(UserError)
  })

  it('are never software unless asked for by name', async () => {
    if (SOFTWARE) {
      const [short] = ADAPTER.split(' ')
      await expect(openWebgpu()).rejects.toThrow(
        new RegExp(`no hardware WebGPU adapter.*"${short}.*--adapter ${short}\\)`),
      )
      return
    }
    const device = await openWebgpu()
    expect(device.info.software).toBe(false)
    await device.close()
  })

  it('that are missing are reported with the command that installs one', () => {
    const script = `
      import { openWebgpu } from ${JSON.stringify(DEVICE)}
      try { await openWebgpu() } catch (error) { console.log(error.name, error.message) }`
    const said = child(script, { VK_DRIVER_FILES: '/none', VK_ICD_FILENAMES: '/none' })
    expect(said).toMatch(/^UserError no WebGPU adapter was found: .*setup-vulkan\.sh/)
  })

  it('leave nothing behind: the process ends by itself and setImmediate is as before', async () => {
    const before = globalThis.setImmediate
    const first = await openWebgpu({ adapter: ADAPTER })
    const second = await openWebgpu({ adapter: ADAPTER })
    expect(globalThis.setImmediate === before).toBe(!SOFTWARE)
    await first.close()
    await second.close()
    await second.close()
    expect(globalThis.setImmediate).toBe(before)
    const script = `
      import { openWebgpu } from ${JSON.stringify(DEVICE)}
      const device = await openWebgpu({ adapter: ${JSON.stringify(ADAPTER)} })
      const tensor = device.tensor('activations', 'x', 4, 4)
      device.write(tensor, new Float32Array(16).fill(2))
      const data = await device.read(tensor, 0, 4)
      await device.close()
      console.log('closed', data[15])`
    expect(child(script, {})).toBe('closed 2')
  })
})

/** Runs an ES module in a process of its own; what it prints. */
function child(script: string, env: Record<string, string>): string {
  const args = ['--import', 'tsx', '--input-type=module', '-e', script]
  return execFileSync(process.execPath, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'ignore'],
    timeout: 60_000,
  }).trim()
}

describe('the webgpu device', () => {
  it('reads in call order, many reads at once and reads larger than its buffer', async () => {
    const device = await openWebgpu({ adapter: ADAPTER })
    try {
      const strategy = SOFTWARE ? 'direct' : '(direct|ring)'
      expect(device.info.detail).toMatch(new RegExp(`uploads: ${strategy} \\(direct writes`))
      const [rows, cols] = [600, 700]
      const values = randoms(rows * cols, 9)
      const x = device.tensor('activations', 'x', rows, cols)
      device.write(x, values)
      const before = [device.read(x, 3, 2), device.read(x, 0, rows), device.read(x, 599, 1)]
      device.write(x, new Float32Array(rows * cols))
      const after = device.read(x, 0, 1)
      const [some, all, last] = await Promise.all(before)
      expect(some).toEqual(values.subarray(3 * cols, 5 * cols))
      expect(Buffer.compare(Buffer.from(all!.buffer), Buffer.from(values.buffer))).toBe(0)
      expect(last).toEqual(values.subarray(599 * cols))
      expect(await after).toEqual(new Float32Array(cols))
    } finally {
      await device.close()
    }
    expect(device.ledger.total()).toBe(0)
  })

  it('takes operations of no rows', async () => {
    const device = await openWebgpu({ adapter: ADAPTER })
    try {
      device.reserve(workload({ tileElements: 4, tileRows: 2, headRows: 0 }))
      const slot = device.slot('resident', 'head', 16)
      const x = device.tensor('activations', 'x', 1, 2)
      const state = device.tensor('activations', 'state', 1, 3)
      device.write(x, Float32Array.of(1, 2))
      device.write(state, Float32Array.of(1, 2, 3))
      await device.stage(slot, 16)
      const none = { probes: 1, rows: 0 }
      const tiles = [{ row0: 0, rows: 2 }]
      device.commit(slot, { name: 'head', dtype: 'F32', cols: 2, tiles, recipe: plain })
      await device.crossEntropy(x, slot, new Uint32Array(0), state, none)
      await device.activation('relu', x, none)
      expect([...(await device.read(state, 0, 1))]).toEqual([1, 2, 3])
      expect(await device.read(x, 0, 0)).toHaveLength(0)
    } finally {
      await device.close()
    }
  })

  it('attends with heads of up to 256 columns and refuses wider ones', async () => {
    const device = await openWebgpu({ adapter: ADAPTER })
    const reference = openReference()
    try {
      const sees = queryGroups(textsOf([35]))
      device.reserve(workload({ rows: 35 }))
      const dimsOf = (headSize: number) => ({ heads: 2, kvHeads: 2, headSize, scale: 0.1 })
      for (const headSize of [80, 128, 256]) {
        const run = async (on: Device) => {
          const cols = 2 * headSize
          const [q, k, v, y] = [1, 2, 3, 4].map((seed) => {
            const tensor = on.tensor('activations', `tensor ${seed}`, 35, cols)
            on.write(tensor, randoms(35 * cols, seed))
            return tensor
          })
          await on.attention(q!, k!, v!, y!, 1, sees, dimsOf(headSize))
          return on.read(y!, 0, 35)
        }
        const [got, want] = [await run(device), await run(reference)]
        const error = Math.max(...got.map((value, i) => Math.abs(value - want[i]!)))
        expect(error).toBeLessThan(2e-6)
      }
      const wide = device.tensor('activations', 'wide', 35, 2 * 257)
      await expect(device.attention(wide, wide, wide, wide, 1, sees, dimsOf(257))).rejects.toThrow(
        /heads of 257 columns.*--device cpu/,
      )
    } finally {
      await device.close()
    }
  })

  it('puts what attention sees into its own memory once, in the order of the calls', async () => {
    const device = await openWebgpu({ adapter: ADAPTER })
    try {
      const dims = { heads: 1, kvHeads: 1, headSize: 4, scale: 1 }
      const [alone, pair] = [[1, 1], [2]].map((lengths) => queryGroups(textsOf(lengths)))
      device.reserve(
        workload({ rows: 2, attention: { ...dims, groups: 2, listed: 2, longest: 2 } }),
      )
      const [x, y, z, u] = ['x', 'y', 'z', 'u'].map((name) =>
        device.tensor('activations', name, 2, 4),
      )
      device.write(x!, Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8))
      await device.attention(x!, x!, x!, y!, 1, alone!, dims)
      await device.attention(x!, x!, x!, z!, 1, pair!, dims)
      await device.attention(x!, x!, x!, u!, 1, alone!, dims)
      const [first, second, third] = await Promise.all(
        [y!, z!, u!].map((t) => device.read(t, 0, 2)),
      )
      expect([...first!]).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
      expect(second![4]).toBeGreaterThan(1)
      expect(second![4]).toBeLessThanOrEqual(5)
      expect(third).toEqual(first)
      const large = queryGroups(textsOf([2, 30]))
      const tall = device.tensor('activations', 'tall', 32, 4)
      const out = device.tensor('activations', 'out', 32, 4)
      await expect(device.attention(tall, tall, tall, out, 1, large, dims)).rejects.toThrow(
        'attention of 32 queries in 2 groups that list 32 keys is larger than what was reserved: 2 in 2 that list 2',
      )
    } finally {
      await device.close()
    }
  })

  it('lets NaN and infinity through every operation', async () => {
    const device = await openWebgpu({ adapter: ADAPTER })
    try {
      const [rows, cols] = [4, 8]
      const at = { probes: 1, rows }
      const values = randoms(rows * cols, 3)
      values[cols] = NaN // row 1
      values[2 * cols] = Infinity // row 2
      const [x, y] = ['x', 'y'].map((name) => device.tensor('activations', name, rows, cols))
      const finiteRows = async (run: () => Promise<void>, from = y!) => {
        device.write(x!, values)
        device.write(y!, new Float32Array(rows * cols))
        await run()
        const got = await device.read(from, 0, rows)
        const row = (r: number) => got.subarray(r * cols, (r + 1) * cols)
        return [0, 1, 2, 3].filter((r) => row(r).every(Number.isFinite))
      }
      expect(await finiteRows(() => device.layerNorm(x!, null, null, 1e-5, y!, at))).toEqual([0, 3])
      expect(await finiteRows(() => device.add(x!, y!, at))).toEqual([0, 3])
      for (const kind of ['relu', 'gelu', 'gelu_new'] as const) {
        expect(await finiteRows(() => device.activation(kind, x!, at), x!), kind).toEqual([0, 3])
      }
      // Causal: rows after a bad key see it, the row before does not.
      const sees = queryGroups(textsOf([rows]))
      const dims = { heads: 1, kvHeads: 1, headSize: cols, scale: 1 }
      device.reserve(workload({ rows }))
      const attend = () => device.attention(x!, x!, x!, y!, 1, sees, dims)
      expect(await finiteRows(attend)).toEqual([0])
    } finally {
      await device.close()
    }
  })

  it('copies shared memory instead of handing it to Dawn', async () => {
    const device = await openWebgpu({ adapter: ADAPTER })
    try {
      const shared = new Float32Array(new SharedArrayBuffer(16)).fill(3)
      const x = device.tensor('activations', 'x', 1, 4)
      device.write(x, shared)
      expect([...(await device.read(x, 0, 1))]).toEqual([3, 3, 3, 3])
    } finally {
      await device.close()
    }
  })
})
