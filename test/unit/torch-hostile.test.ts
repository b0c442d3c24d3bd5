// Pickles and archives that attack the reader: forbidden globals and opcodes, bombs, lying sizes,
// and thousands of seeded mutations. Each is refused by name, quickly, without large allocations.
// Alone: npx vitest run test/unit/torch-hostile.test.ts

import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { isTuple, unpickle } from '../../src/checkpoint/torch/pickle.ts'
import { readTorchBin } from '../../src/checkpoint/torch/bin.ts'
import type { FileTensors } from '../../src/checkpoint/types.ts'
import { answersOrRefuses, mutate, refusal, seeded, temporaryFolder } from '../helpers/hostile.ts'
import {
  bytesOf,
  op,
  statePickle,
  writeSparseZip,
  zip,
  type FakeEntry,
  type FakeTensor,
} from '../helpers/torch-file.ts'

const folder = temporaryFolder()
const REAL = new URL(
  '../fixtures/layouts/sharded-bin/pytorch_model-00002-of-00002.bin',
  import.meta.url,
).pathname
const GOOD: FakeTensor = { name: 'w', storage: '0', elements: 6, shape: [2, 3] }

function written(content: Uint8Array): string {
  const path = join(folder, 'pytorch_model.bin')
  writeFileSync(path, content)
  return path
}

const withPickle = (data: Uint8Array): string =>
  written(
    zip([
      { name: 'archive/data.pkl', data },
      { name: 'archive/data/0', data: new Uint8Array(24) },
    ]),
  )

const refused = (path: string): Promise<string> => refusal(() => readTorchBin(path), path)

describe('the restricted unpickler', () => {
  const call = (module: string, name: string): Uint8Array =>
    bytesOf(op.proto, op.global(module, name), op.tuple(op.text('true')), 'R', op.stop)

  it.each([
    ['os', 'system'],
    ['posix', 'system'],
    ['builtins', 'eval'],
    ['builtins', 'getattr'],
    ['torch', 'load'],
    ['torch._utils', '_rebuild_tensor'],
    ['collections', 'OrderedDict.__init__'],
    ['__proto__', 'constructor'],
  ])('refuses the global %s.%s by its name', async (module, name) => {
    expect(await refused(withPickle(call(module, name)))).toContain(`global "${module}.${name}"`)
  })

  it.each<[string, Uint8Array, string]>([
    ['calling a storage type', bytesOf(op.global('torch', 'FloatStorage'), ')R'), 'a call of the'],
    ['calling a text', bytesOf(op.text('x'), ')R'), 'a call of "x"'],
    ['STACK_GLOBAL', bytesOf(op.text('os'), op.text('system'), 0x93), 'STACK_GLOBAL (0x93)'],
    ['INST', bytesOf('(ios\nsystem\n'), 'INST (0x69)'],
    ['NEWOBJ', bytesOf(op.global('collections', 'OrderedDict'), ')', 0x81), 'NEWOBJ'],
    ['an unknown opcode', bytesOf(0xff), 'opcode 0xff'],
    ['a long name', bytesOf(`c${'a'.repeat(1000)}\nb\n`), 'without an end of line'],
    ['a lying text length', bytesOf('X', [255, 255, 255, 127]), 'end of the data'],
    ['an absent memo', bytesOf('h', 9), 'no memo 9'],
    ['a lying memo', bytesOf('j', [255, 255, 255, 255]), 'no memo 4294967295'],
    ['popping nothing', bytesOf('R'), 'an empty stack'],
    ['popping below a mark', bytesOf(')', '(', 0x85), 'an empty stack'],
    ['a tuple without a mark', bytesOf('t'), 'no MARK'],
    ['items without a dictionary', bytesOf(')', op.text('a'), 'Ns'), 'no dictionary'],
    ['a key twice', bytesOf('}', op.text('a'), 'Ns', op.text('a'), 'Ns'), 'key "a" twice'],
    ['a key that is a tuple', bytesOf('}', ')Ns'), 'no string'],
    ['an odd list of items', bytesOf('}(', op.text('a'), 'u'), 'without a value'],
    ['attributes of a tuple', bytesOf(')', '}b'), 'attributes'],
    ['items added to a tuple', bytesOf(')', 'Na'), 'no list'],
    ['a number cut short', bytesOf('G', [0, 0, 0]), 'end of the data'],
    [
      'arguments that are a list',
      bytesOf(op.global('collections', 'OrderedDict'), ']R'),
      'a list of 0',
    ],
    ['a giant integer', bytesOf(0x8a, 255, new Uint8Array(255)), 'integer of 255 bytes'],
    ['bytes that are no text', bytesOf('X', [1, 0, 0, 0, 0xff]), 'not UTF-8'],
    ['an open mark', bytesOf(')('), 'unbalanced'],
    ['two values', bytesOf(')', ')'), 'unbalanced'],
    ['a value after the end', bytesOf(')', '.', ')'), 'bytes after STOP'],
  ])('refuses %s', async (_, body, expected) => {
    expect(await refused(withPickle(bytesOf(op.proto, body, op.stop)))).toContain(expected)
  })

  it('refuses other protocols and streams without an end', async () => {
    expect(await refused(withPickle(bytesOf(0x80, 4, ')', '.')))).toContain('protocol 4')
    expect(await refused(withPickle(bytesOf('(lp0\n.')))).toContain('no PROTO')
    expect(await refused(withPickle(bytesOf(op.proto, ')')))).toContain('end of the data')
    expect(await refused(withPickle(new Uint8Array(0)))).toContain('end of the data')
  })

  it('bounds bombs: deep nesting, doubled references, floods of objects', async () => {
    const deep = bytesOf(op.proto, ')', new Uint8Array(200_000).fill(0x85), op.stop)
    expect(await refused(withPickle(deep))).toContain('expected a state dict')
    const doubling = bytesOf(...Array.from({ length: 60 }, () => bytesOf('q', 0, 'h', 0, 0x86)))
    const message = await refused(withPickle(bytesOf(op.proto, ')', doubling, op.stop)))
    expect(message).toContain('expected a state dict')
    const flood = new Uint8Array(900_000).fill(0x7d)
    expect(await refused(withPickle(bytesOf(op.proto, flood)))).toContain(
      'more than 262144 objects',
    )
  })

  it('refuses a data.pkl of more than 4 MiB without reading it', async () => {
    const path = join(folder, 'fat.bin')
    writeSparseZip(path, [{ name: 'archive/data.pkl', claimedBytes: 2 ** 30 }])
    expect(await refused(path)).toContain('at most 4194304 bytes, found 1073741824')
    rmSync(path)
  })

  it('answers or refuses 3,000 mutated pickles', async () => {
    const tensors = ['a', 'b', 'c'].map((name): FakeTensor => ({
      ...GOOD,
      name,
      isParameter: true,
    }))
    const original = statePickle(tensors)
    const random = seeded(2)
    const rules = {
      globals: new Map([
        ['torch.FloatStorage', null],
        ['collections.OrderedDict', () => new Map()],
        ['torch._utils._rebuild_tensor_v2', (args: readonly unknown[]) => ({ args })],
        ['torch._utils._rebuild_parameter', (args: readonly unknown[]) => args[0]],
      ]),
      persistentLoad: (id: unknown) => (isTuple(id) ? { id: id[2] } : undefined),
    }
    let count = 0
    for (let i = 0; i < 3000; i++) {
      const mutant = mutate(original, random)
      const read = (): unknown => unpickle(mutant, 'fuzz', rules)
      if ((await answersOrRefuses(read, () => {}, `mutation ${i}`)) !== undefined) count++
    }
    expect(count).toBeGreaterThan(1000)
  })
})

it('passes over tensors of bytes, and tells of them', async () => {
  const bytes = { storageType: 'ByteStorage', storage: '1', elements: 4, shape: [1, 1, 2, 2] }
  const file = (name: string) =>
    written(
      zip([
        { name: 'archive/data.pkl', data: statePickle([GOOD, { ...bytes, name }]) },
        { name: 'archive/data/0', data: new Uint8Array(24) },
        { name: 'archive/data/1', data: new Uint8Array(4) },
      ]),
    )
  const { tensors, others } = await readTorchBin(file('h.0.attn.bias'))
  expect(tensors.map(({ name }) => name)).toEqual(['w'])
  expect(others).toEqual([{ name: 'h.0.attn.bias', dtype: 'U8' }])
})

describe('the ZIP directory', () => {
  const entries = (fault: Partial<FakeEntry> = {}): FakeEntry[] => [
    { name: 'archive/data.pkl', data: statePickle([GOOD]) },
    { name: 'archive/data/0', data: new Uint8Array(24), ...fault },
  ]

  it.each<[string, Uint8Array, string]>([
    [
      'compressed entries',
      zip(entries({ method: 8 })),
      '"archive/data/0" to be stored, found it comp',
    ],
    ['encrypted entries', zip(entries({ flags: 1 })), 'found it encrypted'],
    ['a name twice', zip([...entries(), ...entries()]), 'appears twice'],
    ['a truncated file', zip(entries()).slice(0, -30), 'its end record is missing'],
    ['a file cut in its middle', zip(entries()).slice(0, 500), 'its end record is missing'],
    ['a prefix that shifts all offsets', bytesOf('PK\x03\x04', zip(entries())), 'but'],
  ])('refuses %s', async (_, content, expected) => {
    expect(await refused(written(content))).toContain(expected)
  })

  it('refuses an entry that overlaps another or claims bytes behind the directory', async () => {
    const good = zip(entries())
    const central = new TextDecoder('latin1').decode(good).indexOf('PK\x01\x02')
    const second = good.indexOf(0x50, central + 46 + 'archive/data.pkl'.length)
    const overlapping = good.slice()
    overlapping.set([0, 0, 0, 0], second + 42)
    expect(await refused(written(overlapping))).toContain('overlaps another')
    const long = good.slice()
    for (const at of [20, 24]) long.set([0xff, 0xff, 0, 0], second + at)
    expect(await refused(written(long))).toContain('of 65535 bytes runs over its end')
    const uneven = good.slice()
    uneven[second + 20] = 25
    expect(await refused(written(uneven))).toContain('two different sizes')
  })

  it.each([false, true])('answers or refuses 1,000 mutated archives (ZIP64: %s)', async (zip64) => {
    const original = zip(entries(), zip64)
    const random = seeded(zip64 ? 3 : 4)
    const central = new TextDecoder('latin1').decode(original).indexOf('PK\x01\x02')
    let count = 0
    for (let i = 0; i < 1000; i++) {
      const mutant = i % 4 === 0 ? mutate(original, random) : mutate(original, random, central)
      const path = written(mutant)
      const check = ({ tensors }: FileTensors): void => {
        for (const { offsetBytes, bytes, shape } of tensors) {
          expect(bytes).toBe(shape.reduce((a, b) => a * b, 4))
          expect(offsetBytes + bytes).toBeLessThanOrEqual(mutant.length)
        }
      }
      const message = await answersOrRefuses(() => readTorchBin(path), check, `mutation ${i}`)
      if (message !== undefined) count++
    }
    expect(count).toBeGreaterThan(500)
  })

  it('answers or refuses 500 mutations of a real file', async () => {
    const original = new Uint8Array(readFileSync(REAL))
    const random = seeded(5)
    for (let i = 0; i < 500; i++) {
      const from = i % 2 === 0 ? original.length - 3000 : 0
      const path = written(mutate(original, random, from, from + 3000))
      await answersOrRefuses(
        () => readTorchBin(path),
        () => {},
        `mutation ${i}`,
      )
    }
  })
})
