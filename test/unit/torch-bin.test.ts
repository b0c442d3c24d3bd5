// The PyTorch checkpoint reader: real files against their safetensors twins, hand-built ones for
// what PyTorch writes rarely (4 GB, parameters, metadata) and for tensors that cannot be used.
// Malicious pickles and archives are in torch-hostile.test.ts.
// Alone: npx vitest run test/unit/torch-bin.test.ts

import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openFiles } from '../../src/checkpoint/files.ts'
import { readSafetensorsHeader } from '../../src/checkpoint/safetensors.ts'
import { readTorchBin } from '../../src/checkpoint/torch/bin.ts'
import type { TensorEntry } from '../../src/checkpoint/types.ts'
import { refusal, temporaryFolder } from '../helpers/hostile.ts'
import {
  bytesOf,
  op,
  statePickle,
  tensorOps,
  writeSparseZip,
  writeTorchFile,
  zip,
  type FakeEntry,
  type FakeTensor,
} from '../helpers/torch-file.ts'

const folder = temporaryFolder()
const FIXTURES = new URL('../fixtures/', import.meta.url).pathname
const GOOD: FakeTensor = { name: 'w', storage: '0', elements: 6, shape: [2, 3] }

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

async function readAll(entries: readonly TensorEntry[]): Promise<Map<string, object>> {
  const files = await openFiles(entries.map(({ file }) => file))
  try {
    const result = new Map<string, object>()
    for (const entry of entries) {
      const bytes = new Uint8Array(entry.bytes)
      await files.read(entry, 0, bytes)
      result.set(entry.name, { dtype: entry.dtype, shape: [...entry.shape], hex: hexOf(bytes) })
    }
    return result
  } finally {
    await files.close()
  }
}

function pathOf(write: (path: string) => void): string {
  const path = join(folder, 'pytorch_model.bin')
  write(path)
  return path
}

const withTensors = (tensors: FakeTensor[], extra: FakeEntry[] = [], itemBytes = 4): string =>
  pathOf((path) => writeTorchFile(path, tensors, extra, itemBytes))

const withPickle = (data: Uint8Array): string =>
  pathOf((path) =>
    writeFileSync(
      path,
      zip([
        { name: 'archive/data.pkl', data },
        { name: 'archive/data/0', data: new Uint8Array(24) },
      ]),
    ),
  )

const refused = (path: string): Promise<string> => refusal(() => readTorchBin(path), path)

function layoutsWithBoth(): string[] {
  return [
    join(FIXTURES, 'tiny-opt'),
    ...readdirSync(join(FIXTURES, 'layouts')).map(inLayouts),
  ].filter((dir) =>
    ['model.safetensors', 'pytorch_model.bin'].every((name) => existsSync(join(dir, name))),
  )
}

function inLayouts(name: string): string {
  return join(FIXTURES, 'layouts', name)
}

describe('the PyTorch checkpoint reader', () => {
  it.each(layoutsWithBoth())('reads the same bits as safetensors from %s', async (dir) => {
    const { tensors } = await readSafetensorsHeader(join(dir, 'model.safetensors'))
    const { tensors: bin } = await readTorchBin(join(dir, 'pytorch_model.bin'))
    const [expected, found] = [await readAll(tensors), await readAll(bin)]
    expect(expected.size).toBeGreaterThan(10)
    for (const [name, tensor] of expected) expect(found.get(name), name).toEqual(tensor)
    const head = bin.find(({ name }) => name === 'lm_head.weight')
    const embedding = bin.find(({ name }) => name.endsWith('embed_tokens.weight'))!
    if (!expected.has('lm_head.weight') && head !== undefined) {
      expect(head).toEqual({ ...embedding, name: 'lm_head.weight' })
    }
  })

  it('has real files of every element type to read', async () => {
    const dtypes = new Set<string>()
    for (const dir of layoutsWithBoth()) {
      const { tensors } = await readTorchBin(join(dir, 'pytorch_model.bin'))
      for (const { dtype } of tensors) dtypes.add(dtype)
    }
    expect([...dtypes].sort()).toEqual(['BF16', 'F16', 'F32'])
  })

  it('locates views, parameters, tied, scalar and empty tensors', async () => {
    const path = withTensors([
      GOOD,
      { name: 'tied', storage: '0', elements: 6, shape: [2, 3], isParameter: true },
      { name: 'row', storage: '0', elements: 6, shape: [1, 3], strides: [77, 1], offset: 3 },
      { name: 'scalar', storage: '0', elements: 6, shape: [], offset: 5 },
      { name: 'empty', storage: '0', elements: 6, shape: [0, 4], strides: [1, 1] },
    ])
    const { tensors: entries } = await readTorchBin(path)
    const start = entries[0]!.offsetBytes
    expect(start % 64).toBe(0)
    expect(
      entries.map(({ name, offsetBytes, bytes }) => [name, offsetBytes - start, bytes]),
    ).toEqual([
      ['w', 0, 24],
      ['tied', 0, 24],
      ['row', 12, 12],
      ['scalar', 20, 4],
      ['empty', 0, 0],
    ])
    expect((await readAll(entries)).get('row')).toMatchObject({
      hex: hexOf(Uint8Array.from({ length: 12 }, (_, i) => 12 + i)),
    })
  })

  it('reads past 4 GB through ZIP64, from a file that is mostly a hole', async () => {
    const path = join(folder, 'large.bin')
    const elements = 2 ** 31 + 5
    const tensors: FakeTensor[] = [
      { name: 'big', storage: '0', storageType: 'HalfStorage', elements, shape: [elements] },
      { name: 'small', storage: '1', elements: 6, shape: [6] },
    ]
    const small = Uint8Array.from({ length: 24 }, (_, i) => i + 1)
    try {
      writeSparseZip(path, [
        { name: 'archive/data.pkl', data: statePickle(tensors) },
        { name: 'archive/data/0', claimedBytes: elements * 2 },
        { name: 'archive/data/1', data: small },
        { name: 'archive/byteorder', data: bytesOf('little') },
      ])
      expect(statSync(path).size).toBeGreaterThan(2 ** 32)
      const [big, tensor] = (await readTorchBin(path)).tensors
      expect(big!.bytes).toBe(2 ** 32 + 10)
      expect(tensor!.offsetBytes).toBeGreaterThan(2 ** 32)
      expect((await readAll([tensor!])).get('small')).toMatchObject({ hex: hexOf(small) })
      const files = await openFiles([path])
      const tail = new Uint8Array(4).fill(1)
      await files.read(big!, big!.bytes - 4, tail).finally(() => files.close())
      expect([...tail]).toEqual([0, 0, 0, 0])
    } finally {
      rmSync(path, { force: true })
    }
  })

  it.each<[string, Partial<FakeTensor>, string]>([
    ['a transposed tensor', { strides: [1, 2] }, '"w" to be row-major, shape [2, 3]'],
    ['an expanded tensor', { strides: [0, 1] }, 'strides [0, 1]'],
    ['a tensor over its storage', { offset: 1 }, 'inside its storage of 6, found 1 + 6'],
    ['a negative offset', { offset: -1 }, 'offset >= 0, found -1'],
    ['a negative size', { shape: [-2, -3] }, 'sizes and strides'],
    ['strides of another rank', { strides: [1] }, 'sizes and strides'],
    ['a huge shape', { shape: [2 ** 30, 2 ** 30], strides: [2 ** 30, 1] }, 'inside its storage'],
    ['a rank of 65', { shape: Array<number>(65).fill(1) }, 'a list of 65'],
    ['a storage of another type', { storageType: 'HalfStorage' }, '12 bytes in "data/0", found 24'],
    ['an unknown storage', { storageType: 'OddStorage' }, 'the global "torch.OddStorage"'],
  ])('refuses %s', async (_, fault, expected) => {
    expect(await refused(withTensors([{ ...GOOD, ...fault }]))).toContain(expected)
  })

  it('passes over tensors of other types, and tells of them', async () => {
    const types = ['LongStorage', 'IntStorage', 'DoubleStorage', 'BoolStorage', 'ByteStorage']
    const more = types.map((storageType, i) => ({ ...GOOD, name: `o${i}`, storageType }))
    const { tensors, others } = await readTorchBin(withTensors([...more, GOOD]))
    expect(tensors.map(({ name }) => name)).toEqual(['w'])
    expect(others.map(({ name, dtype }) => `${name} ${dtype}`)).toEqual([
      ...['o0 I64', 'o1 I32', 'o2 F64', 'o3 BOOL', 'o4 U8'],
    ])
  })

  it('refuses a storage that is missing or whose size is a lie', async () => {
    const data = statePickle([{ ...GOOD, storage: '7' }])
    expect(await refused(withPickle(data))).toContain('24 bytes in "data/7", found none')
    const lie = statePickle([{ ...GOOD, elements: 2 ** 40, shape: [2 ** 40] }])
    expect(await refused(withPickle(lie))).toContain('"data/0", found 24')
  })

  it('refuses big-endian data and takes a byteorder entry that says little', async () => {
    const order = (text: string): FakeEntry[] => [
      { name: 'archive/byteorder', data: bytesOf(text) },
    ]
    expect(await refused(withTensors([GOOD], order('big')))).toContain('found "big"')
    const { tensors } = await readTorchBin(withTensors([GOOD], order('little')))
    expect(tensors).toHaveLength(1)
  })

  it('refuses what is no state dict', async () => {
    const pickle = (...parts: Parameters<typeof bytesOf>): string =>
      withPickle(bytesOf(op.proto, ...parts, op.stop))
    expect(await refused(pickle(tensorOps(GOOD)))).toContain('expected a state dict')
    const nested = bytesOf('}', op.text('model'), '}', 's')
    expect(await refused(pickle(nested))).toContain('"model" to be a tensor, found an object')
    expect(await refused(pickle('}', op.text('epoch'), op.int(3), 's'))).toContain('found 3')
  })

  it('tells older formats, pointers, other files and other archives apart', async () => {
    const written = (content: Uint8Array | string): string =>
      pathOf((path) => writeFileSync(path, content))
    expect(await refused(written(bytesOf(0x80, 2, 0x8a, 10, 0x6c)))).toContain('PyTorch 1.6')
    const pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'
    expect(await refused(written(pointer))).toContain('git lfs pull')
    expect(await refused(written('<html>'))).toContain('found other bytes')
    expect(await refused(written(''))).toContain('found other bytes')
    expect(await refused(written(zip([{ name: 'a', data: bytesOf('b') }])))).toContain('found 0')
    await expect(readTorchBin(join(folder, 'none'))).rejects.toThrow('cannot be opened (ENOENT)')
  })
})
