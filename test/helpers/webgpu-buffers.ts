// An adapter that is open while a test file runs, its commands, and buffers up and down, for tests of kernels
// without the device around them. A test file that imports this opens the adapter before its tests.

import { afterAll, beforeAll } from 'vitest'
import { openAdapter, type OpenAdapter } from '../../src/device/webgpu/adapter.ts'
import { Commands } from '../../src/device/webgpu/commands.ts'
import { USAGE } from '../../src/device/webgpu/buffers.ts'
import { ADAPTER } from './webgpu.ts'

export let adapter: OpenAdapter
export let commands: Commands
beforeAll(async () => {
  adapter = await openAdapter(ADAPTER)
  commands = new Commands(adapter.gpu)
})
afterAll(() => adapter.close())

/** A buffer with the data. */
export const upload = (data: ArrayBufferView<ArrayBuffer>) => {
  const usage = USAGE.storage | USAGE.copyDst | USAGE.copySrc
  const buffer = adapter.gpu.createBuffer({ size: Math.max(16, data.byteLength), usage })
  commands.upload(buffer, 0, data)
  return buffer
}
/** What a buffer holds once all commands so far have run. */
export const download = async (buffer: GPUBuffer) => {
  const usage = USAGE.mapRead | USAGE.copyDst
  const target = adapter.gpu.createBuffer({ size: buffer.size, usage })
  commands.copy(buffer, 0, target, 0, buffer.size)
  commands.flush()
  await target.mapAsync(1)
  commands.check()
  const data = target.getMappedRange().slice(0)
  target.destroy()
  return data
}
