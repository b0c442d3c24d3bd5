// Safetensors headers that lie, one test per lie, and thousands of seeded mutations: the reader
// answers correctly or refuses with one sentence, quickly, without large allocations.
// Alone: npx vitest run test/unit/safetensors-hostile.test.ts

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readSafetensorsHeader, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import type { FileTensors } from '../../src/checkpoint/types.ts'
import {
  answersOrRefuses,
  mutate,
  refusal,
  seeded,
  temporaryFolder,
  type Random,
} from '../helpers/hostile.ts'

const folder = temporaryFolder()

/** A file from header text and a number of data bytes; `claim` lies about the header's length. */
function writeRaw(header: string, dataBytes: number, claim?: bigint): string {
  const path = join(folder, 'raw.safetensors')
  const text = new TextEncoder().encode(header)
  const file = new Uint8Array(8 + text.length + dataBytes)
  new DataView(file.buffer).setBigUint64(0, claim ?? BigInt(text.length), true)
  file.set(text, 8)
  writeFileSync(path, file)
  return path
}

const refused = (header: string, dataBytes: number, claim?: bigint): Promise<string> => {
  const path = writeRaw(header, dataBytes, claim)
  return refusal(() => readSafetensorsHeader(path), header.slice(0, 80))
}

const entry = (dtype: string, shape: unknown, offsets: unknown): string =>
  JSON.stringify({ dtype, shape, data_offsets: offsets })

describe('the safetensors reader', () => {
  it.each([
    ['a lying length', '{}', 0, 2n ** 63n, 'a claim of 9223372036854775808'],
    ['a length over the file', '{}', 0, 99_000_000n, 'a claim of 99000000'],
    ['a length of zero', '{}', 0, 0n, 'a claim of 0'],
    ['a header that is no object', '[1]     ', 0, undefined, "starts with '{'"],
    ['broken JSON', '{"a":', 0, undefined, 'invalid JSON'],
    ['a NaN', '{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4, undefined, 'JSON'],
    ['an entry that is no object', '{"a":[]}', 0, undefined, 'found a list of 0'],
    ['an unknown dtype', `{"a":${entry('I63', [1], [0, 8])}}`, 8, undefined, 'has, found "I63"'],
    ['an integer of a wrong span', `{"a":${entry('I64', [1], [0, 4])}}`, 4, undefined, 'span 8 by'],
    ['an inherited dtype', `{"a":${entry('toString', [1], [0, 8])}}`, 8, undefined, 'toString'],
    ['a negative size', `{"a":${entry('F32', [-1, -1], [0, 4])}}`, 4, undefined, 'sizes >= 0'],
    ['a fraction', `{"a":${entry('F32', [0.5], [0, 2])}}`, 2, undefined, 'sizes >= 0'],
    ['a text for a shape', `{"a":${entry('F32', '1', [0, 4])}}`, 4, undefined, 'sizes >= 0'],
    ['a huge shape', `{"a":${entry('F32', [2 ** 40, 2 ** 40], [0, 4])}}`, 4, undefined, 'span'],
    ['overflow', `{"a":${entry('F32', [2 ** 52, 2 ** 52, 0], [0, 0])}}`, 0, undefined, 'span'],
    [
      'an infinite size',
      '{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}',
      4,
      undefined,
      'sizes',
    ],
    ['a wrong span', `{"a":${entry('F32', [2], [0, 4])}}`, 4, undefined, 'span 8 bytes, found 4'],
    ['reversed offsets', `{"a":${entry('F32', [0], [4, 0])}}`, 4, undefined, 'data_offsets'],
    ['three offsets', `{"a":${entry('F32', [1], [0, 4, 8])}}`, 4, undefined, 'data_offsets'],
    ['no offsets', '{"a":{"dtype":"F32","shape":[1]}}', 4, undefined, 'data_offsets'],
    ['missing data', `{"a":${entry('F32', [2], [0, 8])}}`, 4, undefined, '8 bytes of tensors'],
    ['data without a tensor', `{"a":${entry('F32', [1], [0, 4])}}`, 8, undefined, 'found 8'],
    ['a hole', `{"a":${entry('F32', [1], [4, 8])}}`, 8, undefined, 'leaves a hole'],
    [
      'a tensor over another',
      `{"a":${entry('F32', [2], [0, 8])},"b":${entry('F32', [2], [4, 12])}}`,
      12,
      undefined,
      'tensor "b" to begin at 8, found 4, which overlaps',
    ],
    [
      'the same tensor twice',
      `{"a":${entry('F32', [1], [0, 4])},"\\u0061":${entry('F32', [1], [4, 8])}}`,
      8,
      undefined,
      '"a" twice',
    ],
    [
      'a key twice in an entry',
      '{"a":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
      4,
      undefined,
      '"dtype" twice',
    ],
    ['deep nesting', `{"a":${'['.repeat(50_000)}`, 0, undefined, 'nested at most'],
    ['metadata that is no object', '{"__metadata__":3}', 0, undefined, '__metadata__'],
    ['metadata of numbers', '{"__metadata__":{"a":1}}', 0, undefined, 'of strings'],
  ])('refuses %s', async (_, header, dataBytes, claim, expected) => {
    expect(await refused(header, dataBytes, claim)).toContain(expected)
  })

  it('accepts a file of no tensors, spaces after the header and odd but valid names', async () => {
    const none = { tensors: [], others: [], metadata: {} }
    expect(await readSafetensorsHeader(writeRaw('{}   ', 0))).toEqual(none)
    const header = `{"__proto__":${entry('F16', [1, 2], [0, 4])}, "__metadata__":{"__proto__":"x"}}`
    const { tensors, metadata } = await readSafetensorsHeader(writeRaw(header, 4))
    expect(tensors.map(({ name, shape }) => ({ name, shape }))).toEqual([
      { name: '__proto__', shape: [1, 2] },
    ])
    expect(Object.entries(metadata)).toEqual([['__proto__', 'x']])
  })

  it('passes over tensors of other types, and tells of them', async () => {
    const ranges = [
      `"ids":${entry('I64', [2], [0, 16])}`,
      `"w":${entry('F16', [2], [16, 20])}`,
      `"scale":${entry('F8_E4M3', [3], [20, 23])}`,
      `"mask":${entry('BOOL', [1, 1], [23, 24])}`,
    ]
    const path = writeRaw(`{${ranges.join(',')}}`, 24)
    const { tensors, others } = await readSafetensorsHeader(path)
    expect(tensors.map(({ name, bytes }) => [name, bytes])).toEqual([['w', 4]])
    expect(others.map(({ name, dtype }) => `${name} ${dtype}`)).toEqual([
      ...['ids I64', 'scale F8_E4M3', 'mask BOOL'],
    ])
  })

  it('refuses an empty file, a tiny one and a Git LFS pointer', async () => {
    const path = join(folder, 'odd')
    for (const [content, expected] of [
      ['', '0 bytes in all'],
      ['short', '5 bytes in all'],
      ['version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'],
    ] as const) {
      writeFileSync(path, content)
      await expect(readSafetensorsHeader(path)).rejects.toThrow(expected)
    }
  })

  it('answers or refuses 3,000 mutated files', async () => {
    const source = join(folder, 'source.safetensors')
    const tensors = [
      { name: 'a', dtype: 'F16', shape: [3, 5] },
      { name: 'b', dtype: 'F32', shape: [] },
      { name: 'c', dtype: 'BF16', shape: [0, 7] },
      { name: 'd "é"\n', dtype: 'F32', shape: [1025] },
    ] as const
    const bytes = [30, 4, 0, 4100]
    await writeSafetensors(source, { tensors }, (i, sink) => sink.write(new Uint8Array(bytes[i]!)))
    const original = new Uint8Array(readFileSync(source))
    const headerEnd = 8 + Number(new DataView(original.buffer).getBigUint64(0, true))
    const random = seeded(1)
    let count = 0
    for (let i = 0; i < 3000; i++) {
      const path = join(folder, 'mutant.safetensors')
      const isText = i % 2 === 0
      if (isText) writeRaw(mutateHeader(original.subarray(8, headerEnd), random), 4134)
      else writeFileSync(path, mutate(original, random, 0, headerEnd))
      const read = (): ReturnType<typeof readSafetensorsHeader> =>
        readSafetensorsHeader(isText ? join(folder, 'raw.safetensors') : path)
      const message = await answersOrRefuses(read, checkTiling, `mutation ${i}`)
      if (message !== undefined) count++
    }
    expect(count).toBeGreaterThan(2000)
  })
})

const LIES = [
  '-1',
  '0',
  '1e3',
  '1e999',
  'NaN',
  'null',
  '"x"',
  '[]',
  '{}',
  '9007199254740993',
  '1.5',
]

/**
 * Replaces a number, repeats a part, or swaps a word of the header's text, keeping it near to
 * JSON.
 */
function mutateHeader(header: Uint8Array, random: Random): string {
  const text = new TextDecoder().decode(header)
  const numbers = [...text.matchAll(/\d+/g)]
  const kind = random(4)
  const hit = numbers[random(numbers.length)]!
  const lie = LIES[random(LIES.length)]!
  if (kind === 0) return text.slice(0, hit.index) + lie + text.slice(hit.index + hit[0].length)
  if (kind === 1)
    return text.replaceAll(['F16', 'F32', 'BF16'][random(3)]!, ['F32', 'F64'][random(2)]!)
  if (kind === 2) {
    const parts = text.split(/(?<=\}),/)
    parts.splice(random(parts.length), 0, parts[random(parts.length)]!)
    return parts.join(',')
  }
  const at = random(text.length)
  return `${text.slice(0, at)}${['[', '{', '"', '}', ']', ',', ':'][random(7)]!}${text.slice(at)}`
}

/** What the reader accepted must lie in the file, end to end, each tensor as long as its shape. */
function checkTiling({ tensors, others }: FileTensors): void {
  if (others.length > 0) return
  let cursor = tensors[0]?.offsetBytes ?? 0
  for (const { shape, dtype, offsetBytes, bytes } of tensors) {
    expect(offsetBytes).toBe(cursor)
    expect(bytes).toBe(shape.reduce((a, b) => a * b, dtype === 'F32' ? 4 : 2))
    cursor += bytes
  }
  if (tensors.length > 0) expect(cursor).toBe(readFileSync(tensors[0]!.file).length)
}
