// Builds files as torch.save writes them, byte by byte: the pickle of a state dict (protocol 2)
// and the ZIP archive around it. Every part can be bent, which no real PyTorch would do, to test
// refusals.
import { writeFileSync, openSync, writeSync, closeSync, ftruncateSync } from 'node:fs'

const encoder = new TextEncoder()

export function bytesOf(
  ...parts: (number | string | readonly number[] | Uint8Array)[]
): Uint8Array {
  return Uint8Array.from(
    parts.flatMap((part) => {
      if (typeof part === 'number') return [part]
      return typeof part === 'string' ? [...encoder.encode(part)] : [...part]
    }),
  )
}

function little(value: number, bytes: number): Uint8Array {
  const word = new Uint8Array(8)
  new DataView(word.buffer).setBigUint64(0, BigInt(value), true)
  return word.subarray(0, bytes)
}

export const op = {
  proto: [0x80, 2],
  stop: '.',
  mark: '(',
  text: (value: string) => bytesOf('X', little(encoder.encode(value).length, 4), value),
  int(value: number): Uint8Array {
    if (value >= 0 && value < 256) return bytesOf('K', value)
    if (value >= 0 && value < 65536) return bytesOf('M', little(value, 2))
    if (value >= 0 && value < 2 ** 31) return bytesOf('J', little(value, 4))
    const word = new Uint8Array(8)
    new DataView(word.buffer).setBigInt64(0, BigInt(value), true)
    return bytesOf(0x8a, 8, word)
  },
  tuple: (...items: Uint8Array[]) => bytesOf('(', ...items, 't'),
  global: (module: string, name: string) => bytesOf(`c${module}\n${name}\n`),
  emptyOrderedDict: bytesOf('ccollections\nOrderedDict\n', ')R'),
}

/** A tensor of a state dict; what is left out is as PyTorch would have it. */
export interface FakeTensor {
  readonly name: string
  readonly storage: string
  readonly storageType?: string
  readonly elements: number
  readonly shape: readonly number[]
  readonly strides?: readonly number[]
  readonly offset?: number
  readonly isParameter?: boolean
}

export function rowMajor(shape: readonly number[]): number[] {
  return shape.map((_, i) => shape.slice(i + 1).reduce((product, size) => product * size, 1))
}

export function tensorOps(tensor: FakeTensor): Uint8Array {
  const { storageType = 'FloatStorage', strides = rowMajor(tensor.shape), offset = 0 } = tensor
  const storage = op.tuple(
    op.text('storage'),
    op.global('torch', storageType),
    op.text(tensor.storage),
    op.text('cpu'),
    op.int(tensor.elements),
  )
  const ints = (values: readonly number[]): Uint8Array => op.tuple(...values.map(op.int))
  const args = op.tuple(
    bytesOf(storage, 'Q'),
    op.int(offset),
    ints(tensor.shape),
    ints(strides),
    bytesOf(0x89),
    op.emptyOrderedDict,
  )
  const built = bytesOf(op.global('torch._utils', '_rebuild_tensor_v2'), args, 'R')
  if (tensor.isParameter !== true) return built
  const parameterArgs = op.tuple(built, bytesOf(0x88), op.emptyOrderedDict)
  return bytesOf(op.global('torch._utils', '_rebuild_parameter'), parameterArgs, 'R')
}

/** The pickle of an OrderedDict of tensors with a `_metadata` attribute, as state_dict() has. */
export function statePickle(tensors: readonly FakeTensor[]): Uint8Array {
  const items = tensors.map((tensor) => bytesOf(op.text(tensor.name), tensorOps(tensor)))
  const version = bytesOf('}', op.text('version'), op.int(1), 's')
  const metadata = bytesOf(op.emptyOrderedDict, '(', op.text(''), version, 'u')
  const state = bytesOf('}', op.text('_metadata'), metadata, 's')
  return bytesOf(op.proto, op.emptyOrderedDict, 'q', 0, '(', ...items, 'u', state, 'b', op.stop)
}

/** An archive entry; `claimedBytes` makes room for that much instead of writing `data`. */
export interface FakeEntry {
  readonly name: string
  readonly data?: Uint8Array
  readonly claimedBytes?: number
  readonly method?: number
  readonly flags?: number
}

interface Piece {
  readonly at: number
  readonly data: Uint8Array
}

/** The archive's pieces and its length; bytes between pieces are zero. */
export function zipPieces(
  entries: readonly FakeEntry[],
  zip64 = false,
): { pieces: Piece[]; totalBytes: number } {
  const pieces: Piece[] = []
  const central: Uint8Array[] = []
  let at = 0
  for (const { name, data, claimedBytes, method = 0, flags = 0x808 } of entries) {
    const size = claimedBytes ?? data?.length ?? 0
    const wide = (value: number): Uint8Array => (zip64 ? little(0xffffffff, 4) : little(value, 4))
    const nameBytes = encoder.encode(name)
    const common = bytesOf(little(flags, 2), little(method, 2), little(0, 8))
    // As PyTorch does: an extra field of the local header alone pads the data to 64 bytes.
    const unpadded = at + 30 + nameBytes.length + 4
    const padding = bytesOf('FB', little((64 - (unpadded % 64)) % 64, 2))
    const extra = bytesOf(padding, new Uint8Array((64 - (unpadded % 64)) % 64).fill(0x5a))
    const sizes = [wide(size), wide(size), little(nameBytes.length, 2)]
    const local = bytesOf(
      ...['PK\x03\x04', little(45, 2), common, ...sizes, little(extra.length, 2), nameBytes, extra],
    )
    pieces.push({ at, data: local })
    if (data !== undefined) pieces.push({ at: at + local.length, data })
    const extra64 = bytesOf(
      little(1, 2),
      little(24, 2),
      little(size, 8),
      little(size, 8),
      little(at, 8),
    )
    const centralExtra = zip64 ? extra64 : new Uint8Array(0)
    central.push(
      bytesOf(
        ...['PK\x01\x02', little(45, 2), little(45, 2), common, ...sizes],
        ...[
          little(centralExtra.length, 2),
          little(0, 8),
          little(0, 2),
          wide(at),
          nameBytes,
          centralExtra,
        ],
      ),
    )
    at += local.length + size
  }
  const directory = bytesOf(...central)
  const tail = endRecords(at, directory.length, entries.length, zip64)
  pieces.push({ at, data: bytesOf(directory, tail) })
  return { pieces, totalBytes: at + directory.length + tail.length }
}

function endRecords(at: number, bytes: number, count: number, zip64: boolean): Uint8Array {
  const end = (entries: number, size: number, offset: number): Uint8Array =>
    bytesOf(
      ...['PK\x05\x06', little(0, 4), little(entries, 2), little(entries, 2)],
      ...[little(size, 4), little(offset, 4), little(0, 2)],
    )
  if (!zip64) return end(count, bytes, at)
  const end64 = bytesOf(
    ...['PK\x06\x06', little(44, 8), little(45, 2), little(45, 2), little(0, 8)],
    ...[little(count, 8), little(count, 8), little(bytes, 8), little(at, 8)],
  )
  const locator = bytesOf('PK\x06\x07', little(0, 4), little(at + bytes, 8), little(1, 4))
  return bytesOf(end64, locator, end(0xffff, 0xffffffff, 0xffffffff))
}

export function zip(entries: readonly FakeEntry[], zip64 = false): Uint8Array {
  const { pieces, totalBytes } = zipPieces(entries, zip64)
  const result = new Uint8Array(totalBytes)
  for (const { at, data } of pieces) result.set(data, at)
  return result
}

/** Writes the archive with holes where nothing was given: gigabytes that take no disk. */
export function writeSparseZip(path: string, entries: readonly FakeEntry[]): void {
  const { pieces, totalBytes } = zipPieces(entries, true)
  const fd = openSync(path, 'w')
  try {
    ftruncateSync(fd, totalBytes)
    for (const { at, data } of pieces) writeSync(fd, data, 0, data.length, at)
  } finally {
    closeSync(fd)
  }
}

/** A whole file: the pickle, and storages of `elements * itemBytes` bytes counting 0, 1, 2, .... */
export function writeTorchFile(
  path: string,
  tensors: readonly FakeTensor[],
  extra: readonly FakeEntry[] = [],
  itemBytes = 4,
): void {
  const storages = new Map(tensors.map(({ storage, elements }) => [storage, elements]))
  writeFileSync(
    path,
    zip([
      { name: 'archive/data.pkl', data: statePickle(tensors) },
      ...extra,
      ...[...storages].map(([key, elements]) => ({
        name: `archive/data/${key}`,
        data: Uint8Array.from({ length: elements * itemBytes }, (_, i) => i),
      })),
      { name: 'archive/version', data: bytesOf('3\n') },
    ]),
  )
}
