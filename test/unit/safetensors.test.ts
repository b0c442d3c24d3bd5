// The safetensors writer and positional reads: round trips, another reader's opinion, atomicity.
// Hostile files are in safetensors-hostile.test.ts.
// Alone: npx vitest run test/unit/safetensors.test.ts

import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, truncateSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openFiles } from '../../src/checkpoint/files.ts'
import {
  readSafetensorsHeader,
  writeSafetensors,
  writeShardedSafetensors,
  type TensorSpec,
} from '../../src/checkpoint/safetensors.ts'
import type { TensorEntry } from '../../src/checkpoint/types.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const folder = temporaryFolder()

const SPECS: TensorSpec[] = [
  { name: 'a', dtype: 'F16', shape: [3, 5] },
  { name: 'b', dtype: 'F32', shape: [] },
  { name: 'c', dtype: 'BF16', shape: [0, 7] },
  { name: 'd "é"\n', dtype: 'F32', shape: [1025] },
]
const DATA = [30, 4, 0, 4100].map((length) => new Uint8Array(randomBytes(length)))

async function writeSample(path: string, metadata?: Record<string, string> | null): Promise<void> {
  const content = metadata === undefined ? { tensors: SPECS } : { tensors: SPECS, metadata }
  await writeSafetensors(path, content, async (index, sink) => {
    const chunk = new Uint8Array(1000)
    for (let at = 0; at < DATA[index]!.length; at += chunk.length) {
      const part = DATA[index]!.subarray(at, at + chunk.length)
      chunk.set(part)
      await sink.write(chunk.subarray(0, part.length))
    }
  })
}

async function readBytes(entry: TensorEntry): Promise<Uint8Array> {
  const files = await openFiles([entry.file])
  try {
    const into = new Uint8Array(entry.bytes)
    await files.read(entry, 0, into)
    return into
  } finally {
    await files.close()
  }
}

describe('the safetensors writer', () => {
  it('writes what the reader reads back, bit for bit, 4-byte tensors first', async () => {
    const path = join(folder, 'sample.safetensors')
    await writeSample(path)
    const { tensors, metadata } = await readSafetensorsHeader(path)
    expect(metadata).toEqual({ format: 'pt' })
    expect(tensors.map(({ name }) => name)).toEqual(['b', 'd "é"\n', 'a', 'c'])
    for (const tensor of tensors) {
      const index = SPECS.findIndex(({ name }) => name === tensor.name)
      expect({ dtype: tensor.dtype, shape: tensor.shape }).toEqual({
        dtype: SPECS[index]!.dtype,
        shape: SPECS[index]!.shape,
      })
      expect(await readBytes(tensor)).toEqual(DATA[index])
    }
    const file = readFileSync(path)
    expect(Number(file.readBigUInt64LE(0)) % 8).toBe(0)
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([])
  })

  it('writes metadata-free files that the npm package safetensors reads', async () => {
    const path = join(folder, 'plain.safetensors')
    await writeSample(path, null)
    interface SafeTensor {
      metadata: Map<string, { dtype: string; shape: number[] }>
      getTensor(name: string): Uint8Array
    }
    const other = createRequire(import.meta.url)('safetensors') as {
      SafeTensor: new (file: Uint8Array) => SafeTensor
    }
    // That package reads the header from the start of the underlying buffer, so it gets its own.
    const file = new other.SafeTensor(Uint8Array.from(readFileSync(path)))
    expect([...file.metadata.keys()].sort()).toEqual(SPECS.map(({ name }) => name).sort())
    for (const [index, { name, dtype, shape }] of SPECS.entries()) {
      expect(file.metadata.get(name)).toMatchObject({ dtype, shape })
      expect(file.getTensor(name)).toEqual(DATA[index])
    }
  })

  it('keeps the old file and no temporary one when filling fails or is too short', async () => {
    const path = join(folder, 'kept.safetensors')
    await writeSample(path)
    const before = readFileSync(path)
    const tensors = [{ name: 'x', dtype: 'F32', shape: [2] }] as const
    const write = (bytes: number): Promise<void> =>
      writeSafetensors(path, { tensors }, (_, sink) => sink.write(new Uint8Array(bytes)))
    await expect(write(4)).rejects.toThrow('x has 8 bytes, but 4 were written')
    await expect(write(12)).rejects.toThrow('x has 8 bytes, but 12 were written')
    const failing = writeSafetensors(path, { tensors }, () => Promise.reject(new Error('stop')))
    await expect(failing).rejects.toThrow('stop')
    expect(readFileSync(path)).toEqual(before)
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([])
  })

  it('says how many bytes were needed when the disk is full, and cleans up', async () => {
    const handle = await open(join(folder, 'probe'), 'w')
    const prototype = Object.getPrototypeOf(handle) as { write: unknown }
    await handle.close()
    const original = prototype.write
    prototype.write = () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' }))
    try {
      const writing = writeSample(join(folder, 'full.safetensors'))
      await expect(writing).rejects.toMatchObject({
        name: 'UserError',
        message: expect.stringMatching(
          /no space left for the \d{4} bytes this file needs/,
        ) as unknown,
      })
    } finally {
      prototype.write = original
    }
    expect(readdirSync(folder).filter((name) => /full|tmp/.test(name))).toEqual([])
  })

  it('names the folder when it does not exist', async () => {
    await expect(writeSample(join(folder, 'none', 'x.safetensors'))).rejects.toMatchObject({
      name: 'UserError',
    })
  })

  it('refuses two tensors of one name', async () => {
    const tensors = [SPECS[0]!, SPECS[0]!]
    const writing = writeSafetensors(join(folder, 'twice'), { tensors }, async () => {})
    await expect(writing).rejects.toThrow('"a" cannot name a tensor twice')
  })

  it('shards by size and writes the index that Hugging Face reads', async () => {
    const dir = temporaryFolder()
    const fill = (
      index: number,
      sink: { write(chunk: Uint8Array): Promise<void> },
    ): Promise<void> => sink.write(DATA[index]!)
    await writeShardedSafetensors(dir, SPECS, fill, { maxShardBytes: 34 })
    const index = JSON.parse(readFileSync(join(dir, 'model.safetensors.index.json'), 'utf8')) as {
      metadata: unknown
      weight_map: Record<string, string>
    }
    expect(index.metadata).toEqual({ total_size: 4134 })
    const [first, second] = [1, 2].map((k) => `model-0000${k}-of-00002.safetensors`)
    expect(index.weight_map).toEqual({ a: first, b: first, c: first, 'd "é"\n': second })
    for (const [name, file] of Object.entries(index.weight_map)) {
      const { tensors } = await readSafetensorsHeader(join(dir, file))
      const found = tensors.find((tensor) => tensor.name === name)!
      expect(await readBytes(found)).toEqual(DATA[SPECS.findIndex((spec) => spec.name === name)])
    }
    const whole = temporaryFolder()
    await writeShardedSafetensors(whole, SPECS, fill)
    expect(readdirSync(whole)).toEqual(['model.safetensors'])
  })
})

describe('open weight files', () => {
  it('read into shared memory and notice a file that was truncated meanwhile', async () => {
    const path = join(folder, 'shared.safetensors')
    await writeSample(path)
    const { tensors } = await readSafetensorsHeader(path)
    const tensor = tensors.find(({ name }) => name.startsWith('d'))!
    const files = await openFiles([path, path])
    try {
      const shared = new Uint8Array(new SharedArrayBuffer(200), 100, 40)
      await files.read(tensor, 60, shared)
      expect(Array.from(shared)).toEqual(Array.from(DATA[3]!.subarray(60, 100)))
      await expect(files.read(tensor, 4099, new Uint8Array(2))).rejects.toThrow('lie outside')
      truncateSync(path, tensor.offsetBytes + 10)
      await expect(files.read(tensor, 0, new Uint8Array(20))).rejects.toMatchObject({
        name: 'UserError',
        message: expect.stringContaining('changed or truncated while in use') as unknown,
      })
    } finally {
      await files.close()
      await files.close()
    }
  })

  it('are refused with the path when one is missing or is no file', async () => {
    const missing = join(folder, 'missing')
    await expect(openFiles([missing])).rejects.toThrow(`${missing}: cannot be opened (ENOENT)`)
    await expect(openFiles([folder])).rejects.toThrow('expected a file')
  })
})
