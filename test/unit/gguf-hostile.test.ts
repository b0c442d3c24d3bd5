// GGUF files that lie, one test per lie, and ten thousand seeded mutations: the reader answers correctly or refuses with
// one sentence, quickly, without large allocations; and so does whatever reads what it answered.
// Alone: npx vitest run test/unit/gguf-hostile.test.ts

import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { openFiles } from '../../src/checkpoint/files.ts'
import { readGgufHeader } from '../../src/checkpoint/gguf/header.ts'
import { openGguf } from '../../src/checkpoint/gguf/open.ts'
import { ggufTokenizer } from '../../src/checkpoint/gguf/tokenizer.ts'
import { fileBytes, type Checkpoint } from '../../src/checkpoint/types.ts'
import { findTensors } from '../../src/engine/tensors.ts'
import { UserError } from '../../src/util/errors.ts'
import { answersOrRefuses, mutate, refusal, seeded, temporaryFolder } from '../helpers/hostile.ts'

const folder = temporaryFolder()
const LLAMA = fileURLToPath(new URL('../fixtures/gguf/llama.gguf', import.meta.url))

type Value = bigint | number | string

/** A part of a file: u32 from a number, u64 from a bigint, a text with its length. */
function bytesOf(value: Value): Buffer {
  if (typeof value === 'number') return Buffer.from(Uint32Array.of(value).buffer)
  if (typeof value === 'bigint') return Buffer.from(BigUint64Array.of(value).buffer)
  const text = Buffer.from(value)
  return Buffer.concat([bytesOf(BigInt(text.length)), text])
}

const MAGIC = 0x46554747

/** A file of these parts behind magic and version; `data` bytes behind it, the header padded to 32. */
function written(parts: readonly Value[], data = 0, version = 3): string {
  const header = Buffer.concat([MAGIC, version, ...parts].map(bytesOf))
  const padding = (32 - (header.length % 32)) % 32
  const path = join(folder, 'raw.gguf')
  writeFileSync(path, Buffer.concat([header, Buffer.alloc(padding + data)]))
  return path
}

const refused = (parts: readonly Value[], data?: number, version?: number): Promise<string> => {
  const path = written(parts, data, version)
  return refusal(() => openGguf(path), parts.map(String).join(' ').slice(0, 80))
}

/** A tensor of F32. */
const tensor = (name: string, sizes: readonly bigint[], offset: bigint, type = 0): Value[] => [
  name,
  sizes.length,
  ...sizes,
  type,
  offset,
]

const ARCHITECTURE: Value[] = ['general.architecture', 8, 'llama']

describe('the GGUF reader', () => {
  it.each<[string, Value[], number, string]>([
    ['more tensors than bytes', [2n ** 40n, 0n], 0, 'at most'],
    ['more metadata than bytes', [0n, 2n ** 63n], 0, 'at most'],
    ['a key longer than the file', [0n, 1n, 2n ** 50n], 64, 'a claim of 1125899906842624'],
    ['a text longer than the file', [0n, 1n, 'a', 8, 2n ** 31n], 64, 'a claim of 2147483648'],
    ['a list longer than the file', [0n, 1n, 'a', 9, 6, 2n ** 33n], 64, 'elements'],
    ['a list of lists', [0n, 1n, 'a', 9, 9, 1n], 64, 'list of numbers or texts'],
    ['an unknown type of value', [0n, 1n, 'a', 13, 0n], 64, 'a type that the format has'],
    ['a key twice', [0n, 2n, 'a', 4, 1, 'a', 4, 1], 64, '"a" twice'],
    [
      'a name twice',
      [2n, 0n, ...tensor('a', [8n], 0n), ...tensor('a', [8n], 32n)],
      64,
      '"a" twice',
    ],
    ['no dimensions', [1n, 0n, ...tensor('a', [], 0n)], 64, '1 to 4 dimensions'],
    ['five dimensions', [1n, 0n, ...tensor('a', [1n, 1n, 1n, 1n, 1n], 0n)], 64, '1 to 4'],
    ['a size of 0', [1n, 0n, ...tensor('a', [8n, 0n], 0n)], 64, 'sizes from 1 on'],
    ['a huge size', [1n, 0n, ...tensor('a', [2n ** 40n, 2n ** 40n], 0n)], 64, 'sizes from 1 on'],
    ['half a block', [1n, 0n, ...tensor('a', [48n], 0n, 3)], 64, 'multiples of 32, as Q4_1'],
    ['a tensor beyond the end', [1n, 0n, ...tensor('a', [8n], 64n)], 64, 'to end at byte 64'],
    ['a crooked offset', [1n, 0n, ...tensor('a', [8n], 4n)], 64, 'a multiple of 32'],
    [
      'a tensor over another',
      [2n, 0n, ...tensor('a', [16n], 0n), ...tensor('b', [8n], 32n)],
      64,
      '"b" to begin at 64 or later, found 32',
    ],
    ['an alignment of 0', [0n, 1n, 'general.alignment', 4, 0], 64, 'a power of two'],
    ['a crooked alignment', [0n, 1n, 'general.alignment', 4, 24], 64, 'a power of two'],
    ['no architecture', [0n, 0n], 64, 'general.architecture undefined'],
    [
      'an architecture of no model here',
      [0n, 1n, 'general.architecture', 8, 'mamba'],
      64,
      '"mamba"',
    ],
    ['a model without an embedding', [0n, 1n, ...ARCHITECTURE], 64, 'token_embd.weight'],
    [
      'a model without a size',
      [1n, 1n, ...ARCHITECTURE, ...tensor('token_embd.weight', [8n, 2n], 0n)],
      64,
      'llama.embedding_length in the metadata, found none',
    ],
  ])('refuses %s', async (_, parts, data, expected) => {
    expect(await refused(parts, data)).toContain(expected)
  })

  it('refuses other versions, other byte orders and other files', async () => {
    expect(await refused([0n, 0n], 0, 1)).toContain('version 2 or 3, found 1')
    expect(await refused([0n, 0n], 0, 0x03000000)).toContain('big-endian')
    const path = join(folder, 'odd.gguf')
    for (const [content, expected] of [
      ['', '0 bytes in all'],
      ['GGUF', '4 bytes in all'],
      ['PK..............................', 'begins with GGUF'],
      ['version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'],
    ] as const) {
      writeFileSync(path, content)
      await expect(openGguf(path)).rejects.toThrow(expected)
    }
  })

  it('answers or refuses 10,000 mutated files', async () => {
    const original = new Uint8Array(readFileSync(LLAMA))
    const first = Math.min(...(await readGgufHeader(LLAMA)).tensors.map((t) => t.offsetBytes))
    const header = original.subarray(0, first)
    const random = seeded(3)
    const path = join(folder, 'mutant.gguf')
    const fd = openSync(path, 'w')
    let count = 0
    for (let i = 0; i < 10_000; i++) {
      const mutant = mutate(header, random)
      writeSync(fd, mutant, 0, mutant.length, 0)
      // Any data; some files have none.
      ftruncateSync(fd, i % 4 > 0 ? original.length : mutant.length)
      const label = `mutation ${i}`
      const message = await answersOrRefuses(() => openGguf(path), checkInside, label)
      if (message !== undefined) count++
      else if (i % 10 === 0)
        await answersOrRefuses(
          () => useAll(path),
          () => {},
          label,
        )
    }
    closeSync(fd)
    expect(count).toBeGreaterThan(3000)
  }, 60_000)
})

/** What the reader accepted must lie in the file. */
function checkInside({ tensors, files }: Checkpoint): void {
  const { size } = statSync(files[0]!)
  const outside = [...tensors.values()].filter(
    (entry) =>
      !(entry.offsetBytes + fileBytes(entry) <= size) || !Number.isSafeInteger(entry.bytes),
  )
  expect(outside).toEqual([])
}

/** Model, tensors, tokenizer and bytes of what was accepted. */
async function useAll(path: string): Promise<void> {
  const checkpoint = await openGguf(path)
  const files = await openFiles(checkpoint.files)
  try {
    for (const entry of checkpoint.tensors.values()) {
      await files.read(entry, 0, new Uint8Array(Math.min(2 ** 16, entry.bytes)))
    }
  } finally {
    await files.close()
  }
  const faults: unknown[] = []
  for (const use of [
    () => findTensors(createModel(checkpoint.config), checkpoint),
    () => ggufTokenizer(path, checkpoint.gguf!),
  ]) {
    try {
      use()
    } catch (error) {
      faults.push(error)
    }
  }
  expect(faults.filter((error) => !(error instanceof UserError))).toEqual([])
}
