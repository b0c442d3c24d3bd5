// The two upload strategies of the webgpu device, both on every adapter: order, bytes, lanes,
// misuse, and closing while something waits.
// Alone: npx vitest run test/device/webgpu-transfer.test.ts

import { open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Device, type Tile, type Weights } from '../../src/device/device.ts'
import { bytesOf } from '../../src/device/memory.ts'
import { openWebgpu } from '../../src/device/webgpu/device.ts'
import { UserError } from '../../src/util/errors.ts'
import { DTYPE_BYTES, type DType } from '../../src/util/dtypes.ts'
import { ADAPTER, plain, randoms, workload } from '../helpers/webgpu.ts'

describe.each(['ring', 'direct'] as const)('uploads by %s', (transfer) => {
  const [rows, cols, count] = [96, 24, 6]
  const tiles: Tile[] = [0, 32, 64].map((row0) => ({ row0, rows: 32 }))
  const slabBytes = rows * cols * 4
  const file = join(tmpdir(), `zo2-webgpu-${process.pid}-${transfer}`)
  let device: Device
  let data: Float32Array
  beforeAll(async () => {
    data = randoms(count * rows * cols, 5)
    await writeFile(file, new Uint8Array(data.buffer))
    device = await openWebgpu({ adapter: ADAPTER, transfer })
  })
  afterAll(async () => {
    await device.close()
    await rm(file)
  })

  const weights = (name: string, dtype: DType = 'F32'): Weights => ({
    name,
    dtype,
    cols,
    tiles,
    recipe: plain,
  })

  it('say which strategy they are', () => {
    expect(device.info.detail).toContain(`uploads: ${transfer}`)
  })

  it('stream file reads through fewer slots than slabs, in order', async () => {
    device.reserve(workload({ slabBytes, tileElements: 32 * cols, tileRows: 32 }))
    const identity = new Float32Array(cols * cols)
    for (let i = 0; i < cols; i++) identity[i * cols + i] = 1
    const x = device.tensor('activations', 'x', cols, cols)
    const y = device.tensor('activations', 'y', cols, rows)
    const sums = device.tensor('activations', 'sums', cols, rows)
    device.write(x, identity)
    device.write(sums, new Float32Array(cols * rows))
    const slots = [0, 1].map((i) => device.slot('slots', `slot ${i}`, slabBytes))
    const handle = await open(file)
    const at = { probes: 1, rows: cols }
    const stage = async (i: number) => {
      const memory = await device.stage(slots[i % 2]!, slabBytes)
      await handle.read(memory, 0, slabBytes, i * slabBytes)
    }
    try {
      let next = stage(0)
      for (let i = 0; i < count; i++) {
        await next
        device.commit(slots[i % 2]!, weights(`slab ${i}`))
        if (i + 1 < count) next = stage(i + 1)
        await device.linear(x, slots[i % 2]!, null, y, at)
        await device.add(y, sums, at)
      }
    } finally {
      await handle.close()
    }
    const got = await device.read(sums, 0, cols)
    for (let n = 0; n < rows; n++) {
      for (let k = 0; k < cols; k++) {
        let want = 0
        for (let i = 0; i < count; i++) want = Math.fround(want + data[(i * rows + n) * cols + k]!)
        expect(got[k * rows + n]).toBe(want)
      }
    }
    for (const memory of [x, y, sums, ...slots]) device.free(memory)
    expect(device.ledger.now).toMatchObject({ slots: 0, activations: 0 })
  })

  it('charge what memory.ts predicts, and a new reservation replaces the last', () => {
    for (const slots of [1, 2, 5]) {
      const asked = workload({ slots, slabBytes: 1001, probes: 3, terms: 7, headRows: 0 })
      device.reserve(asked)
      expect(device.ledger.now.staging).toBe(device.memory.stagingBytes(asked))
      expect(device.ledger.now.scratch).toBe(bytesOf(device.memory.scratch(asked)))
    }
    const slot = device.slot('resident', 'odd', 1001)
    expect(device.ledger.now.resident).toBe(device.memory.slotBytes(1001))
    device.free(slot)
  })

  it('take slabs of odd lengths, and 16-bit weights that end inside a word', async () => {
    device.reserve(workload({ slabBytes, tileElements: 15, tileRows: 3 }))
    const bytes = 15 * DTYPE_BYTES.F16
    const slot = device.slot('resident', 'odd', bytes)
    const x = device.tensor('activations', 'x', 1, 5)
    const y = device.tensor('activations', 'y', 1, 3)
    const memory = await device.stage(slot, bytes)
    expect(memory.byteLength).toBe(bytes)
    new Uint16Array(memory.buffer, memory.byteOffset, 15).fill(0x3c00)
    const odd = { ...weights('odd', 'F16'), cols: 5, tiles: [{ row0: 0, rows: 3 }] }
    device.commit(slot, odd)
    device.write(x, Float32Array.of(1, 2, 3, 4, 5))
    await device.linear(x, slot, null, y, { probes: 1, rows: 1 })
    expect([...(await device.read(y, 0, 1))]).toEqual([15, 15, 15])
    // Still there for a second pass.
    device.commit(slot, odd)
    device.write(x, Float32Array.of(1, 1, 1, 1, 1))
    await device.linear(x, slot, null, y, { probes: 1, rows: 1 })
    expect([...(await device.read(y, 0, 1))]).toEqual([5, 5, 5])
    for (const freed of [slot, x, y]) device.free(freed)
  })

  it('give a discarded lane to who waits for it', async () => {
    device.reserve(workload({ slabBytes, slots: 1 }))
    const slots = [0, 1].map((i) => device.slot('slots', `slot ${i}`, slabBytes))
    await device.stage(slots[0]!, slabBytes)
    const waiting = device.stage(slots[1]!, slabBytes)
    const early = await Promise.race([waiting, new Promise((r) => setTimeout(r, 30, 'waits'))])
    expect(early).toBe('waits')
    device.discard(slots[0]!)
    expect((await waiting).byteLength).toBe(slabBytes)
    device.discard(slots[1]!)
    for (const slot of slots) device.free(slot)
  })

  it('name the misuse', async () => {
    device.reserve(workload({ slabBytes }))
    const slot = device.slot('slots', 'ring 0', slabBytes)
    const x = device.tensor('activations', 'x', 2, cols)
    const y = device.tensor('activations', 'y', 2, rows)
    const at = { probes: 1, rows: 2 }
    await expect(device.linear(x, slot, null, y, at)).rejects.toThrow(/"ring 0".*without a commit/)
    await expect(device.stage(slot, slabBytes + 4)).rejects.toThrow(/"ring 0".*exceeds/)
    expect(() => device.commit(slot, { ...weights('w'), cols: cols + 1 })).toThrow(/w: .*exceed/)
    expect(() => device.tensor('activations', 'huge', 2 ** 16, 2 ** 16)).toThrow(UserError)
    expect(() => device.write(x, new Float32Array(cols + 1))).toThrow(/"x": 25 values/)
    device.free(x)
    await expect(device.read(x, 0, 1)).rejects.toThrow(/"x" was freed/)
    device.free(y)
    device.free(slot)
  })

  it('reject a stage that waits when the device closes, and leave the ledger at zero', async () => {
    const own = await openWebgpu({ adapter: ADAPTER, transfer })
    own.reserve(workload({ slabBytes, slots: 1 }))
    const slots = [0, 1].map((i) => own.slot('slots', `slot ${i}`, slabBytes))
    await own.stage(slots[0]!, slabBytes)
    const waiting = expect(own.stage(slots[1]!, slabBytes)).rejects.toThrow(/closed/)
    await own.close()
    await waiting
    expect(own.ledger.total()).toBe(0)
    await expect(own.sync()).rejects.toThrow(/closed/)
    expect(() => own.tensor('activations', 'late', 1, 1)).toThrow(/closed/)
  })
})
