// From a range of a tensor's elements to the raw reads and the decoding that fill it: the only way to the bytes of a
// tensor that does not lie in its file as its readers see it. A generator asks for raw bytes, whoever drives it
// reads them, with or without waiting; then they are decoded to their place.

import { DTYPE_BYTES, type DType } from '../../util/dtypes.ts'
import { decodeBlocks } from './decode.ts'
import { GGML_TYPES, type GgmlType } from './types.ts'

/** How raw bytes become the row-major elements of a tensor. */
export interface Encoding {
  readonly type: GgmlType
  /** What elements become: F32, or `type` itself where it needs no widening. */
  readonly dtype: DType
  /** First raw byte in the file. */
  readonly offsetBytes: number
  /** As the file has them: rows of whole blocks. A vector whose elements are rows has one column. */
  readonly rows: number
  readonly cols: number
  /** Rows of a head of a permuted q or k (reference: llama.cpp's converter): 2i + j is row j*(headRows/2) + i. */
  readonly headRows?: number
  /** The tensor's elements are the transpose of the file's. */
  readonly transposed?: boolean
  /** Added to each element. */
  readonly plus?: number
}

/** Bytes to be read from byte `at` of the file on. */
export interface RawRead {
  readonly at: number
  readonly bytes: Uint8Array
}

/** Of one raw read, unless a single row is longer; fold-worker.ts has room for as much. */
const RAW_BYTES = 2 ** 20

/** Raw bytes of a row. */
export const rawRowBytes = ({ type, cols }: Pick<Encoding, 'type' | 'cols'>): number =>
  (cols / GGML_TYPES[type].elements) * GGML_TYPES[type].bytes

/** Raw bytes of the tensor. */
export const rawBytes = (encoding: Encoding): number => encoding.rows * rawRowBytes(encoding)

/**
 * Fills `into` with the tensor's bytes from `offsetBytes` on. Between two steps of the iteration the driver fills
 * what the step before asked for.
 */
export function* widen(
  encoding: Encoding,
  offsetBytes: number,
  into: Uint8Array,
): Generator<RawRead, void, void> {
  if (into.byteLength === 0) return
  if (encoding.transposed) yield* widenColumns(encoding, offsetBytes, into)
  else yield* widenRows(encoding, offsetBytes, into)
}

/** Units are blocks, which lie in order, or whole rows where these are permuted. */
function* widenRows(encoding: Encoding, offsetBytes: number, into: Uint8Array) {
  const { headRows, cols, type } = encoding
  const block = GGML_TYPES[type]
  const [elements, bytes] =
    headRows === undefined ? [block.elements, block.bytes] : [cols, rawRowBytes(encoding)]
  const wide = elements * DTYPE_BYTES[encoding.dtype]
  let first = Math.floor(offsetBytes / wide)
  let end = Math.ceil((offsetBytes + into.byteLength) / wide)
  if (headRows !== undefined && end - first === 1) {
    first = rawRow(first, headRows)
    end = first + 1
  } else if (headRows !== undefined) {
    first = Math.floor(first / headRows) * headRows
    end = Math.ceil(end / headRows) * headRows
  }
  const most = Math.max(1, Math.floor(RAW_BYTES / bytes))
  const raw = new Uint8Array(Math.min(most, end - first) * bytes)
  const place = placing(encoding, offsetBytes, into)
  for (let unit = first; unit < end; unit += most) {
    const count = Math.min(most, end - unit)
    const part = raw.subarray(0, count * bytes)
    yield { at: encoding.offsetBytes + unit * bytes, bytes: part }
    if (headRows === undefined) {
      place(unit * wide, count * elements, part)
      continue
    }
    for (let i = 0; i < count; i++) {
      const row = ownRow(unit + i, headRows)
      place(row * wide, elements, part.subarray(i * bytes, (i + 1) * bytes))
    }
  }
}

/** Row of the file of a row of the tensor. */
export function rawRow(row: number, headRows: number): number {
  const [head, within] = [Math.floor(row / headRows), row % headRows]
  const half = headRows / 2
  return head * headRows + 2 * (within % half) + Math.floor(within / half)
}

/** Row of the tensor of a row of the file. */
function ownRow(row: number, headRows: number): number {
  const [head, within] = [Math.floor(row / headRows), row % headRows]
  return head * headRows + (within % 2) * (headRows / 2) + Math.floor(within / 2)
}

/** Puts decoded elements, whose bytes begin at `at` of the tensor, where `into` has them. */
function placing(encoding: Encoding, offsetBytes: number, into: Uint8Array) {
  const size = DTYPE_BYTES[encoding.dtype]
  let spare = new Uint8Array(0)
  return (at: number, elements: number, raw: Uint8Array): void => {
    const [from, bytes] = [at - offsetBytes, elements * size]
    if (from >= into.byteLength || from + bytes <= 0) return
    const isWhole = from >= 0 && from + bytes <= into.byteLength
    if (isWhole && (into.byteOffset + from) % size === 0) {
      decode(encoding, raw, into.subarray(from, from + bytes))
      return
    }
    if (spare.length < bytes) spare = new Uint8Array(bytes)
    const made = spare.subarray(0, bytes)
    decode(encoding, raw, made)
    const skip = Math.max(0, -from)
    into.set(made.subarray(skip, Math.min(bytes, into.byteLength - from)), from + skip)
  }
}

/** Whole blocks to elements of the encoding's dtype, at an address that these have. */
function decode({ type, dtype, plus }: Encoding, raw: Uint8Array, out: Uint8Array): void {
  if (type === dtype) out.set(raw)
  else decodeBlocks(type, raw, new Float32Array(out.buffer, out.byteOffset, out.byteLength / 4))
  if (plus === undefined) return
  const values = new Float32Array(out.buffer, out.byteOffset, out.byteLength / 4)
  for (let i = 0; i < values.length; i++) values[i]! += plus
}

/** The tensor's rows are columns of the file: all of its rows are read, and of each the wanted blocks kept. */
function* widenColumns(encoding: Encoding, offsetBytes: number, into: Uint8Array) {
  const { type, dtype, rows } = encoding
  const size = DTYPE_BYTES[dtype]
  const wide = rows * size
  const [first, end] = [
    Math.floor(offsetBytes / wide),
    Math.ceil((offsetBytes + into.byteLength) / wide),
  ]
  const block = GGML_TYPES[type]
  const [block0, block1] = [Math.floor(first / block.elements), Math.ceil(end / block.elements)]
  const rowBytes = rawRowBytes(encoding)
  const made = new Uint8Array((end - first) * wide)
  const spare = new Uint8Array((block1 - block0) * block.elements * size)
  const viewOf = (bytes: Uint8Array): Uint16Array | Float32Array =>
    size === 2 ? new Uint16Array(bytes.buffer) : new Float32Array(bytes.buffer)
  const [values, to] = [viewOf(spare), viewOf(made)]
  const most = Math.max(1, Math.floor(RAW_BYTES / rowBytes))
  const raw = new Uint8Array(Math.min(most, rows) * rowBytes)
  for (let row = 0; row < rows; row += most) {
    const count = Math.min(most, rows - row)
    yield { at: encoding.offsetBytes + row * rowBytes, bytes: raw.subarray(0, count * rowBytes) }
    for (let i = 0; i < count; i++) {
      const [from, past] = [block0, block1].map((b) => i * rowBytes + b * block.bytes)
      decode(encoding, raw.subarray(from, past), spare)
      const skip = first - block0 * block.elements
      for (let k = 0; k < end - first; k++) to[k * rows + row + i] = values[skip + k]!
    }
  }
  const from = offsetBytes - first * wide
  into.set(made.subarray(from, from + into.byteLength))
}
