// Writes one value as a pickle of protocol 2, the way torch.save puts a checkpoint together: plain
// values, dictionaries, and tensors whose data lies in storages outside of the pickle. Leaves the
// archive around it to zip-writer.ts, reading to pickle.ts.
// Source: CPython Lib/pickletools.py; torch/_utils.py (_rebuild_tensor_v2).

import type { DType } from '../../util/dtypes.ts'

/** A contiguous tensor that is the whole of the storage `key`. */
export class StoredTensor {
  readonly key: string
  readonly dtype: DType
  readonly shape: readonly number[]
  constructor(key: string, dtype: DType, shape: readonly number[]) {
    this.key = key
    this.dtype = dtype
    this.shape = shape
  }
}

/** A Python tuple; an array is a list. */
export class Tuple {
  readonly items: readonly PickleValue[]
  constructor(items: readonly PickleValue[]) {
    this.items = items
  }
}

/** Maps become OrderedDict, as state dicts are; objects become dict. Whole numbers become int. */
export type PickleValue =
  | null
  | boolean
  | number
  | string
  | StoredTensor
  | Tuple
  | readonly PickleValue[]
  | ReadonlyMap<string, PickleValue>
  | { readonly [key: string]: PickleValue }

const STORAGES: Readonly<Record<DType, string>> = {
  F32: 'FloatStorage',
  F16: 'HalfStorage',
  BF16: 'BFloat16Storage',
}

const EMPTY_ORDERED_DICT = 'ccollections\nOrderedDict\n)R'

/** The pickle of a value. */
export function pickle(value: PickleValue): Uint8Array {
  return Buffer.concat([Buffer.from([0x80, 2]), ...write(value), Buffer.from('.')])
}

function write(value: PickleValue): Buffer[] {
  if (value === null) return [Buffer.from('N')]
  if (typeof value === 'boolean') return [Buffer.from([value ? 0x88 : 0x89])]
  if (typeof value === 'number') return [numeric(value)]
  if (typeof value === 'string') return [text(value)]
  if (value instanceof StoredTensor) return tensor(value)
  if (value instanceof Tuple) return wrap('(', value.items.flatMap(write), 't')
  if (value instanceof Map) {
    return wrap(`${EMPTY_ORDERED_DICT}(`, pairs([...value] as [string, PickleValue][]), 'u')
  }
  if (Array.isArray(value)) return wrap('](', (value as PickleValue[]).flatMap(write), 'e')
  return wrap('}(', pairs(Object.entries(value as Record<string, PickleValue>)), 'u')
}

const wrap = (before: string, inner: Buffer[], after: string) => [
  Buffer.from(before, 'latin1'),
  ...inner,
  Buffer.from(after, 'latin1'),
]

const pairs = (items: readonly [string, PickleValue][]) =>
  items.flatMap(([key, value]) => [text(key), ...write(value)])

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  const head = Buffer.from('X....', 'latin1')
  head.writeUInt32LE(bytes.length, 1)
  return Buffer.concat([head, bytes])
}

function numeric(value: number): Buffer {
  if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
    const float = Buffer.from('G........', 'latin1')
    float.writeDoubleBE(value, 1)
    return float
  }
  if (value === (value | 0)) {
    const int = Buffer.from('J....', 'latin1')
    int.writeInt32LE(value, 1)
    return int
  }
  const long = Buffer.from([0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 0])
  long.writeBigInt64LE(BigInt(value), 2)
  return long
}

function tensor({ key, dtype, shape }: StoredTensor): Buffer[] {
  const elements = shape.reduce((product, size) => product * size, 1)
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1))
  const storageType = Buffer.from(`ctorch\n${STORAGES[dtype]}\n`)
  const id = [text('storage'), storageType, text(key), text('cpu'), numeric(elements)]
  const args = [
    ...wrap('(', id, 'tQ'),
    numeric(0),
    ...write(new Tuple(shape)),
    ...write(new Tuple(strides)),
    Buffer.from([0x89]),
    Buffer.from(EMPTY_ORDERED_DICT),
  ]
  return [Buffer.from('ctorch._utils\n_rebuild_tensor_v2\n'), ...wrap('(', args, 'tR')]
}
