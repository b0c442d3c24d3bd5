// Reads past the page cache: the same bytes as through it, at any offset and up to the last byte; a
// file system without them is read as usual; files that end too early say so; nothing stays open. And
// the store that chooses: what is kept, what goes past, the scratch file's both ways.
// Alone: npx vitest run test/unit/direct-reads.test.ts

import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { tilesOf } from '../../scheduler/tiles.ts'
import type { Change } from '../../src/noise/factors.ts'
import { alignedBytes, blocksAround, createDirectReader, openDirect } from '../../src/io/direct.ts'
import { openFiles, type WeightFiles } from '../../src/checkpoint/files.ts'
import { openStore, type StoreOptions, type WeightStore } from '../../src/weights/store.ts'
import { createCacheShare, fitsPageCache } from '../../src/weights/page-cache.ts'
import type { TensorEntry } from '../../src/checkpoint/types.ts'

const MiB = 2 ** 20
/** More than three chunks of 8 MiB and a tail that no block divides. */
const FILE_BYTES = 25 * MiB + 1234
const BASE = 1002

const folder = mkdtempSync(join(tmpdir(), 'zo2-direct-'))
const path = join(folder, 'weights')
let content: Uint8Array
const entry = (file = path): TensorEntry => {
  const bytes = FILE_BYTES - BASE
  return { name: 'w', dtype: 'F16', shape: [bytes / 2], file, offsetBytes: BASE, bytes }
}

beforeAll(() => {
  const words = new Uint32Array(Math.ceil(FILE_BYTES / 4))
  let state = 1
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    words[i] = state & 0xbfffbfff // float16 below 2
  }
  content = new Uint8Array(words.buffer, 0, FILE_BYTES)
  writeFileSync(path, content)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

async function withFiles<T>(file: string, body: (files: WeightFiles) => Promise<T>): Promise<T> {
  const files = await openFiles([file], createDirectReader())
  try {
    return await body(files)
  } finally {
    await files.close()
  }
}

const bytesAt = (position: number, length: number) => Buffer.from(content.buffer, position, length)

describe('direct reads', () => {
  it('are possible in the folder of this test, or are not there at all', async () => {
    const direct = await openDirect(path)
    if (constants.O_DIRECT === undefined) expect(direct).toBeNull()
    await direct?.close()
  })

  it('give the bytes that buffered reads give, for any range', async () => {
    const last = FILE_BYTES - BASE
    const ranges = [
      [0, 1],
      [0, 4096],
      [3095, 4096],
      [3094, 2],
      [1, 8 * MiB],
      [777, 8 * MiB + 1],
      [5, 17 * MiB + 4097],
      [last - 1, 1],
      [last - 5000, 5000],
      [last - 8 * MiB - 3, 8 * MiB + 3],
      [0, last],
      [100, 0],
    ] as const
    await withFiles(path, async (files) => {
      for (const [offset, length] of ranges) {
        const into = new Uint8Array(new SharedArrayBuffer(length + 2), 1, length)
        await files.read(entry(), offset, into, true)
        const expected = bytesAt(BASE + offset, length)
        expect(expected.equals(Buffer.from(into)), `${offset} + ${length}`).toBe(true)
      }
    })
  })

  it('take turns on the lanes when many are asked for at once', async () => {
    await withFiles(path, async (files) => {
      const parts = Array.from({ length: 12 }, (_, i) => new Uint8Array(2 * MiB - i))
      await Promise.all(parts.map((into, i) => files.read(entry(), i * 2 * MiB + i, into, true)))
      for (const [i, into] of parts.entries()) {
        expect(bytesAt(BASE + i * 2 * MiB + i, into.length).equals(into), `${i}`).toBe(true)
      }
    })
  })

  it('tell how far they came at the end of a file, and nothing beyond it is touched', async () => {
    const direct = await openDirect(path)
    if (!direct) return
    try {
      const into = new Uint8Array(9 * MiB).fill(7)
      const position = FILE_BYTES - 8 * MiB - 99
      expect(await createDirectReader().read(direct, position, into)).toBe(8 * MiB + 99)
      expect(bytesAt(position, 8 * MiB + 99).equals(into.subarray(0, 8 * MiB + 99))).toBe(true)
      expect(into.subarray(8 * MiB + 99).every((byte) => byte === 7)).toBe(true)
      expect(await createDirectReader().read(direct, FILE_BYTES + 5000, into)).toBe(0)
    } finally {
      await direct.close()
    }
  })

  it('of a file truncated meanwhile fail with the sentence of buffered ones', async () => {
    const short = join(folder, 'short')
    writeFileSync(short, content)
    const messages: string[] = []
    await withFiles(short, async (files) => {
      truncateSync(short, 12 * MiB + 100)
      for (const direct of [true, false]) {
        const failure = await files
          .read(entry(short), 0, new Uint8Array(20 * MiB), direct)
          .catch((error: unknown) => error as Error)
        expect(failure).toMatchObject({ name: 'UserError' })
        messages.push((failure as Error).message)
      }
    })
    expect(messages[0]).toContain(`at ${12 * MiB + 100}, found the end of the file`)
    expect(messages[0]).toContain('changed or truncated while in use')
    expect(messages[1]).toBe(messages[0])
  })

  it('that the system refuses become buffered ones', async () => {
    // The refusal is the system's own: of a length that is no multiple of the block.
    const direct = await openDirect(path)
    if (direct) {
      try {
        const refusing = { read: () => direct.read(new Uint8Array(513), 0, 513, 0) }
        await expect(refusing.read()).rejects.toMatchObject({ code: 'EINVAL' })
        const got = await createDirectReader().read(refusing as never, 0, new Uint8Array(MiB))
        expect(got).toBe(0)
      } finally {
        await direct.close()
      }
    }
    // tmpfs: EINVAL when it is opened, before Linux 6.6.
    if (!existsSync('/dev/shm')) return
    const there = mkdtempSync('/dev/shm/zo2-direct-')
    try {
      const file = join(there, 'weights')
      writeFileSync(file, content)
      await withFiles(file, async (files) => {
        const into = new Uint8Array(9 * MiB)
        await files.read(entry(file), 13, into, true)
        expect(bytesAt(BASE + 13, into.length).equals(into)).toBe(true)
      })
    } finally {
      rmSync(there, { recursive: true })
    }
  })

  it('pass on what fails, once nothing is under way any more', async () => {
    const handle = await open(path, 'r')
    await handle.close()
    const reading = createDirectReader().read(handle, 0, new Uint8Array(20 * MiB))
    await expect(reading).rejects.toMatchObject({ code: 'EBADF' })
  })

  it('leave no file open, also when files are closed while one is read', async () => {
    const openHere = () =>
      existsSync('/proc/self/fd')
        ? readdirSync('/proc/self/fd').filter((fd) => {
            try {
              return readlinkSync(`/proc/self/fd/${fd}`).startsWith(folder)
            } catch {
              return false
            }
          })
        : []
    const files = await openFiles([path, path], createDirectReader())
    const into = new Uint8Array(20 * MiB)
    const reading = files.read(entry(), 0, into, true)
    await Promise.all([files.close(), reading])
    expect(bytesAt(BASE, into.length).equals(into)).toBe(true)
    expect(openHere()).toEqual([])
    await expect(openFiles([path, join(folder, 'missing')], createDirectReader())).rejects.toThrow(
      'ENOENT',
    )
    expect(openHere()).toEqual([])
  })

  it('know the blocks around a range', () => {
    expect(blocksAround(0, 1)).toEqual({ first: 0, skip: 0, length: 4096 })
    expect(blocksAround(4095, 2)).toEqual({ first: 0, skip: 4095, length: 8192 })
    expect(blocksAround(8192, 4096)).toEqual({ first: 8192, skip: 0, length: 4096 })
    expect(alignedBytes(70_000).byteLength).toBe(70_000)
  })
})

describe('what the page cache is for', () => {
  it('all of it, if it fits with something to spare', () => {
    expect(fitsPageCache(89, 100)).toBe(true)
    expect(fitsPageCache(91, 100)).toBe(false)
  })

  it('the tensors that come first, up to half of the room, and as they were decided', () => {
    const share = createCacheShare(100)
    expect(['a', 'b', 'c', 'd'].map((name) => share.keeps(name, 20))).toEqual([
      true,
      true,
      false,
      false,
    ])
    expect(share.keeps('e', 10)).toBe(true)
    share.release('a')
    expect([share.keeps('c', 20), share.keeps('f', 20), share.keeps('b', 20)]).toEqual([
      false,
      true,
      true,
    ])
  })
})

describe('a store of more than the page cache can hold', () => {
  const [rows, cols] = [3000, 1024]
  const names = ['a', 'b', 'c', 'd']
  const bytes = rows * cols * 2
  const decayed = (decay: number): Change => ({ kind: 'factored', decay, terms: [] })
  const colsOf = (i: number) => (i === 3 ? cols - 1 : cols) // whose tiles are no whole blocks

  const options = (cacheRoomBytes: number): StoreOptions => ({
    matrices: names.map((name, i) => ({
      name,
      cols: colsOf(i),
      tiles: tilesOf(rows, colsOf(i)),
      entry: {
        name,
        dtype: 'F16' as const,
        shape: [rows, colsOf(i)],
        file: path,
        offsetBytes: BASE + i * bytes,
        bytes: rows * colsOf(i) * 2,
      },
      trains: name !== 'c',
    })),
    overlayDtype: 'float16',
    seed: 3,
    ramBytes: 0,
    scratchDir: folder,
    threads: 2,
    cacheRoomBytes,
  })

  /** Every tensor's bytes, before a fold, after one and after two. */
  async function history(store: WeightStore): Promise<string[]> {
    const seen: string[] = []
    const note = async () => {
      for (const [i, name] of names.entries()) {
        const into = new Uint8Array(rows * colsOf(i) * 2)
        await store.read(name, 0, into, name === 'b')
        const row = new Uint8Array(colsOf(i) * 2)
        await store.read(name, rows - 1, row)
        expect(Buffer.from(into.subarray(-row.length)).equals(row), name).toBe(true)
        seen.push(Buffer.from(into).toString('base64'))
      }
    }
    await note()
    for (const decay of [0.5, 0.75]) {
      await store.fold(() => decayed(decay))
      await note()
    }
    return seen
  }

  it('gives the bytes that it gives when all fits, folded or not', async () => {
    const results: string[][] = []
    for (const room of [Infinity, 0, 3 * bytes]) {
      const store = await openStore(options(room))
      try {
        results.push(await history(store))
      } finally {
        await store.close()
      }
    }
    expect(results[0]).toHaveLength(12)
    expect(new Set(results[0]).size).toBe(10) // c is frozen
    expect(results[1]).toEqual(results[0])
    expect(results[2]).toEqual(results[0])
  })

  it('reads the first tensors through the cache and the others, each time, past it', async () => {
    const counted = () => process.resourceUsage().fsRead * 512
    const readOf = async (body: () => Promise<void>) => {
      const before = counted()
      await body()
      return counted() - before
    }
    const probe = new Uint8Array(MiB)
    const through = () => withFiles(path, (files) => files.read(entry(), 0, probe, true))
    await withFiles(path, (files) => files.read(entry(), 0, new Uint8Array(entry().bytes)))
    // Only where direct reads are to be had and are counted can anything be told.
    if ((await readOf(through)) < MiB) return
    const store = await openStore(options(3 * bytes))
    try {
      const into = new Uint8Array(bytes)
      const whole =
        (name: string, once = false) =>
        () =>
          store.read(name, 0, into, once)
      expect(await readOf(whole('b', true))).toBeGreaterThanOrEqual(bytes)
      expect(await readOf(whole('a'))).toBe(0)
      for (let pass = 0; pass < 2; pass++) {
        expect(await readOf(whole('b'))).toBeGreaterThanOrEqual(bytes)
        expect(await readOf(whole('a'))).toBe(0)
        expect(await readOf(() => store.read('b', 0, into.subarray(0, 2048)))).toBe(0)
      }
    } finally {
      await store.close()
    }
  })
})
