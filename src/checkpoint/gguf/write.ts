// Writes GGUF files: the header, and tensors in f32, f16, bf16 or q8_0, in the order of rows that the architecture's
// files have (names.ts). Leaves what the metadata says to src/export/gguf.ts.
// Source: the `gguf` package's gguf_writer.py and quants.py.

import { writeAtomically } from '../../io/atomic.ts'
import { DTYPE_BYTES, convertElements, f32BitsToF16Bits, type DType } from '../../util/dtypes.ts'
import type { WeightFiles } from '../files.ts'
import type { TensorEntry } from '../types.ts'
import { GGML_TYPES } from './types.ts'
import { rawRow, rawRowBytes } from './widen.ts'

/** Types that are written. */
export type WrittenType = DType | 'Q8_0'

/** A value of the metadata with its type. */
export type Written =
  | readonly [key: string, type: 'u32' | 'i32' | 'f32', value: number | readonly number[]]
  | readonly [key: string, type: 'bool', value: boolean | readonly boolean[]]
  | readonly [key: string, type: 'text', value: string | readonly string[]]

/** A tensor to be written. */
export interface WrittenTensor {
  readonly name: string
  readonly type: WrittenType
  /** Of the file, slowest dimension first. */
  readonly shape: readonly number[]
  /** Where its numbers come from; or the numbers themselves. */
  readonly source: TensorEntry | Float32Array<ArrayBuffer>
  /** Rows of a head whose rows are put in the order of llama's files. */
  readonly headRows?: number
  /** The source is the transpose. */
  readonly transposed?: boolean
  readonly plus?: number
}

const ALIGNMENT = 32
const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8 } as const
const ARRAY = 9
/** Elements that are worked on at a time, unless a head has more. */
const CHUNK_ELEMENTS = 2 ** 18

/**
 * Creates or replaces the file at `path`, whole or not at all.
 * @param convert narrows a chunk of a tensor's f32 or 16-bit elements, or throws for a value that does not fit
 */
export async function writeGguf(
  path: string,
  metadata: readonly Written[],
  tensors: readonly WrittenTensor[],
  files: WeightFiles,
  convert: (part: Uint8Array, entry: TensorEntry, to: DType) => Uint8Array,
  onProgress: (doneBytes: number, totalBytes: number) => void,
): Promise<void> {
  const offsets: number[] = []
  let dataBytes = 0
  for (const tensor of tensors) {
    offsets.push(dataBytes)
    dataBytes += aligned(bytesOf(tensor))
  }
  const header = encodeHeader(metadata, tensors, offsets)
  const total = header.length + dataBytes
  await writeAtomically(path, total, async (append) => {
    await append(header)
    let done = header.length
    for (const tensor of tensors) {
      let written = 0
      for await (const part of partsOf(tensor, files, convert)) {
        await append(part)
        written += part.length
        onProgress(done + written, total)
      }
      if (written !== bytesOf(tensor)) {
        throw new Error(`${tensor.name} has ${bytesOf(tensor)} bytes, but ${written} were written`)
      }
      await append(new Uint8Array(aligned(written) - written))
      done += aligned(written)
    }
  })
}

const aligned = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

const colsOf = ({ shape }: WrittenTensor) => shape.at(-1)!
const rowsOf = ({ shape }: WrittenTensor) => shape.slice(0, -1).reduce((all, size) => all * size, 1)
const bytesOf = (tensor: WrittenTensor) =>
  rowsOf(tensor) * rawRowBytes({ type: tensor.type, cols: colsOf(tensor) })

function encodeHeader(
  metadata: readonly Written[],
  tensors: readonly WrittenTensor[],
  offsets: readonly number[],
): Uint8Array {
  const parts: Buffer[] = []
  const u32 = (value: number) => parts.push(Buffer.from(Uint32Array.of(value).buffer))
  const u64 = (value: number) => parts.push(Buffer.from(BigUint64Array.of(BigInt(value)).buffer))
  const text = (value: string) => {
    const bytes = Buffer.from(value)
    u64(bytes.length)
    parts.push(bytes)
  }
  const value = (type: Written[1], each: number | boolean | string) => {
    if (type === 'text') text(each as string)
    else if (type === 'bool') parts.push(Buffer.from([Number(each)]))
    else if (type === 'f32') parts.push(Buffer.from(Float32Array.of(Number(each)).buffer))
    else u32(Number(each) >>> 0)
  }
  parts.push(Buffer.from('GGUF'))
  u32(3)
  u64(tensors.length)
  u64(metadata.length)
  for (const [key, type, given] of metadata) {
    text(key)
    if (Array.isArray(given)) {
      u32(ARRAY)
      u32(VALUE_TYPES[type])
      u64(given.length)
      for (const each of given as readonly (number | boolean | string)[]) value(type, each)
    } else {
      u32(VALUE_TYPES[type])
      value(type, given as number | boolean | string)
    }
  }
  tensors.forEach(({ name, type, shape }, i) => {
    text(name)
    u32(shape.length)
    for (const size of shape.toReversed()) u64(size)
    u32(GGML_TYPES[type].id)
    u64(offsets[i]!)
  })
  const bytes = Buffer.concat(parts)
  return Buffer.concat([bytes, Buffer.alloc(aligned(bytes.length) - bytes.length)])
}

/** A tensor's raw bytes from the first row to the last. */
async function* partsOf(
  tensor: WrittenTensor,
  files: WeightFiles,
  convert: (part: Uint8Array, entry: TensorEntry, to: DType) => Uint8Array,
): AsyncGenerator<Uint8Array> {
  const { type, source, plus, headRows } = tensor
  if (source instanceof Float32Array) {
    yield new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    return
  }
  const size = DTYPE_BYTES[source.dtype]
  // A vector's elements are rows where rows move.
  const isColumn = tensor.shape.length === 1 && headRows !== undefined
  const cols = isColumn ? 1 : colsOf(tensor)
  const rows = isColumn ? colsOf(tensor) : rowsOf(tensor)
  const step = tensor.transposed ? rows : stepOf(cols, headRows)
  for (let row = 0; row < rows; row += step) {
    const count = Math.min(step, rows - row)
    const read = new Uint8Array(count * cols * size)
    await files.read(source, row * cols * size, read)
    let part = read
    if (tensor.transposed) part = turned(read, rows, cols, size)
    if (headRows !== undefined) part = permuted(read, cols * size, headRows)
    if (plus !== undefined) part = shifted(convertElements(part, source.dtype, 'F32'), plus)
    const from = plus === undefined ? source : { ...source, dtype: 'F32' as const }
    yield type === 'Q8_0'
      ? quantised(convertElements(part, from.dtype, 'F32'))
      : convert(part, from, type)
  }
}

/** Rows at a time: whole heads. */
function stepOf(cols: number, headRows = 1): number {
  return Math.max(1, Math.floor(CHUNK_ELEMENTS / (cols * headRows))) * headRows
}

function permuted(read: Uint8Array, rowBytes: number, headRows: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(read.length)
  for (let row = 0; row * rowBytes < read.length; row++) {
    out.set(read.subarray(row * rowBytes, (row + 1) * rowBytes), rawRow(row, headRows) * rowBytes)
  }
  return out
}

/** [rows, cols] of a matrix that lies as [cols, rows]. */
function turned(read: Uint8Array, rows: number, cols: number, size: number) {
  const [from, to] = [read, new Uint8Array(read.length)].map((bytes) =>
    size === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer),
  ) as [Uint32Array, Uint32Array]
  for (let k = 0; k < cols; k++) {
    for (let row = 0; row < rows; row++) to[row * cols + k] = from[k * rows + row]!
  }
  return new Uint8Array(to.buffer as ArrayBuffer)
}

function shifted(part: Uint8Array, plus: number): Uint8Array<ArrayBuffer> {
  const values = new Float32Array(new Uint8Array(part).buffer)
  for (let i = 0; i < values.length; i++) values[i]! += plus
  return new Uint8Array(values.buffer)
}

/** Blocks of q8_0, bit for bit as the `gguf` package makes them: d = max/127 in f32, halves away from zero. */
export function quantised(part: Uint8Array): Uint8Array {
  const aligned = part.byteOffset % 4 === 0 ? part : new Uint8Array(part)
  const values = new Float32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4)
  const { elements, bytes } = GGML_TYPES.Q8_0
  const out = new Uint8Array((values.length / elements) * bytes)
  const bits = new Uint32Array(1)
  const scale = new Float32Array(bits.buffer)
  for (let at = 0, p = 0; at < values.length; at += elements, p += bytes) {
    let most = 0
    for (let i = 0; i < elements; i++) most = Math.max(most, Math.abs(values[at + i]!))
    scale[0] = most / 127
    const inverse = scale[0] === 0 ? 0 : Math.fround(1 / scale[0])
    const half = f32BitsToF16Bits(bits[0]!)
    out[p] = half & 255
    out[p + 1] = half >> 8
    for (let i = 0; i < elements; i++) {
      const x = Math.fround(values[at + i]! * inverse)
      out[p + 2 + i] = Math.sign(x) * Math.round(Math.abs(x))
    }
  }
  return out
}
