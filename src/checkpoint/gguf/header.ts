// The header of a GGUF file: metadata and where tensors lie. Every word is untrusted until checked here: counts and
// lengths against the bytes that are left, before anything is made of them; what comes out lies inside the file,
// aligned, without overlaps. What the metadata means is config.ts's and tokenizer.ts's matter.
// Source: ggml's docs/gguf.md; the checks of llama.cpp's gguf.cpp.

import { readSync } from 'node:fs'
import { resolve } from 'node:path'
import { looksLikeLfsPointer, openForReading } from '../../io/read.ts'
import { UserError } from '../../util/errors.ts'
import { quote } from '../../util/untrusted.ts'
import { GGML_TYPES, ggmlType, ggmlTypeName, type GgmlType } from './types.ts'

/** A value of the metadata; numbers beyond 2^53 are rounded. */
export type GgufValue =
  number | boolean | string | readonly number[] | readonly boolean[] | readonly string[]

export type Metadata = ReadonlyMap<string, GgufValue>

/** A tensor as its file has it. */
export interface GgufTensor {
  readonly name: string
  readonly type: GgmlType
  /** Slowest dimension first, as everywhere here. */
  readonly shape: readonly number[]
  /** First byte in the file. */
  readonly offsetBytes: number
  readonly bytes: number
}

export interface GgufHeader {
  /** Absolute path. */
  readonly file: string
  readonly metadata: Metadata
  readonly tensors: readonly GgufTensor[]
  /** Tensors of types that are not read, by name. */
  readonly others: ReadonlyMap<string, string>
}

const WINDOW_BYTES = 2 ** 16
const MAX_TEXT_BYTES = 2 ** 24
const MAX_NAME_BYTES = 2 ** 16
const MAX_DIMENSIONS = 4
const MAX_ALIGNMENT = 2 ** 20
/** Bytes that an entry has at least: a length, a type, a value; a name's length, a count, a type, an offset. */
const [LEAST_ENTRY, LEAST_TENSOR] = [13, 24]

/** A sentence that ends every complaint about a file whose bytes are wrong. */
function damaged(file: string, expected: string, found: string): UserError {
  return new UserError(
    `${file}: expected ${expected}, found ${found}; the file is damaged, download it again`,
  )
}

/**
 * Reads and checks a file's header. Tensors come in file order.
 * @throws UserError for anything that the format does not allow
 */
export async function readGgufHeader(path: string): Promise<GgufHeader> {
  const file = resolve(path)
  const { handle, fileBytes } = await openForReading(file)
  try {
    const cursor = new Cursor(file, handle.fd, fileBytes)
    const [tensorCount, entryCount] = readCounts(cursor)
    const metadata = readMetadata(cursor, entryCount)
    const infos = Array.from({ length: tensorCount }, () => readInfo(cursor))
    const alignment = alignmentOf(file, metadata)
    const dataStart = Math.ceil(cursor.position / alignment) * alignment
    checkLayout(file, infos, alignment, fileBytes - dataStart)
    const tensors: GgufTensor[] = []
    const others = new Map<string, string>()
    for (const { name, id, type, shape, offset, bytes } of infos) {
      if (type === undefined) others.set(name, ggmlTypeName(id))
      else tensors.push({ name, type, shape, offsetBytes: dataStart + offset, bytes })
    }
    return { file, metadata, tensors, others }
  } finally {
    await handle.close()
  }
}

/** Reads a file from its front through a small window. */
class Cursor {
  readonly file: string
  readonly fileBytes: number
  readonly #fd: number
  #window = new DataView(new ArrayBuffer(0))
  /** Of the window's first byte in the file, and of the next byte in the window. */
  #start = 0
  #at = 0
  readonly #text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

  constructor(file: string, fd: number, fileBytes: number) {
    this.file = file
    this.#fd = fd
    this.fileBytes = fileBytes
  }

  get position(): number {
    return this.#start + this.#at
  }

  get left(): number {
    return this.fileBytes - this.position
  }

  /** Makes the next `bytes` be in the window, and steps over them; where they begin in it. */
  #take(bytes: number): number {
    if (this.#at + bytes > this.#window.byteLength) {
      const start = this.position
      const length = Math.min(Math.max(WINDOW_BYTES, bytes), this.fileBytes - start)
      if (length < bytes) {
        throw damaged(this.file, `${bytes} more bytes of header at ${start}`, `${length}`)
      }
      this.#window = new DataView(this.#read(start, length).buffer)
      ;[this.#start, this.#at] = [start, 0]
    }
    const at = this.#at
    this.#at += bytes
    return at
  }

  #read(start: number, length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length)
    for (let done = 0; done < length;) {
      const moved = readSync(this.#fd, bytes, done, length - done, start + done)
      if (moved === 0) throw damaged(this.file, `${this.fileBytes} bytes`, `${start + done}`)
      done += moved
    }
    return bytes
  }

  /** A number of one of the format's types. */
  number(type: number): number {
    const at = this.#take(NUMBER_BYTES[type]!)
    const view = this.#window
    switch (type) {
      case 0:
      case BOOL:
        return view.getUint8(at)
      case 1:
        return view.getInt8(at)
      case 2:
        return view.getUint16(at, true)
      case 3:
        return view.getInt16(at, true)
      case U32:
        return view.getUint32(at, true)
      case 5:
        return view.getInt32(at, true)
      case 6:
        return view.getFloat32(at, true)
      case U64:
        return Number(view.getBigUint64(at, true))
      case 11:
        return Number(view.getBigInt64(at, true))
      default:
        return view.getFloat64(at, true)
    }
  }

  /** A text of at most `most` bytes. */
  text(what: string, most: number): string {
    const length = this.number(U64)
    if (length > most || length > this.left) {
      const limit = Math.min(most, this.left)
      throw damaged(this.file, `${what} of at most ${limit} bytes`, `a claim of ${length}`)
    }
    const at = this.#take(length)
    try {
      return this.#text.decode(new Uint8Array(this.#window.buffer, at, length))
    } catch {
      throw damaged(this.file, `${what} in UTF-8`, `other bytes at ${this.position - length}`)
    }
  }
}

const [U32, BOOL, TEXT, ARRAY, U64] = [4, 7, 8, 9, 10]
/** Bytes of the value types that are numbers or flags. */
const NUMBER_BYTES: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  [U32]: 4,
  5: 4,
  6: 4,
  [BOOL]: 1,
  [U64]: 8,
  11: 8,
  12: 8,
}

/** Numbers of tensors and of metadata entries. */
function readCounts(cursor: Cursor): [number, number] {
  const { file, fileBytes } = cursor
  if (fileBytes < 24) throw damaged(file, 'a GGUF header', `${fileBytes} bytes in all`)
  const magic = cursor.number(U32)
  if (magic !== 0x46554747) {
    const first = new Uint8Array(Uint32Array.of(magic).buffer)
    if (looksLikeLfsPointer(Buffer.concat([first, Buffer.from('ion https://git-lfs')]))) {
      throw new UserError(`${file}: expected weights, found a Git LFS pointer; run git lfs pull`)
    }
    throw damaged(
      file,
      'a GGUF file, which begins with GGUF',
      quote(Buffer.from(first).toString('latin1')),
    )
  }
  const version = cursor.number(U32)
  if (version === 0x02000000 || version === 0x03000000) {
    throw new UserError(
      `${file}: expected a little-endian GGUF file, found a big-endian one; take the little-endian one of the model`,
    )
  }
  if (version !== 2 && version !== 3) {
    throw new UserError(
      `${file}: expected GGUF version 2 or 3, found ${version}; convert the model again with the present llama.cpp`,
    )
  }
  const count = (what: string, least: number): number => {
    const claimed = cursor.number(U64)
    const most = Math.floor(cursor.left / least)
    if (claimed > most) throw damaged(file, `at most ${most} ${what}`, `a claim of ${claimed}`)
    return claimed
  }
  return [count('tensors', LEAST_TENSOR), count('entries of metadata', LEAST_ENTRY)]
}

function readMetadata(cursor: Cursor, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < count; i++) {
    const key = cursor.text('a key', MAX_NAME_BYTES)
    const type = cursor.number(U32)
    if (metadata.has(key)) throw damaged(cursor.file, 'each key once', `${quote(key)} twice`)
    metadata.set(key, type === ARRAY ? readArray(cursor, key) : readValue(cursor, key, type))
  }
  return metadata
}

function readValue(cursor: Cursor, key: string, type: number): string | number | boolean {
  if (type === TEXT) return cursor.text(quote(key), MAX_TEXT_BYTES)
  if (!Object.hasOwn(NUMBER_BYTES, type)) {
    throw damaged(cursor.file, `${quote(key)} to be of a type that the format has`, `${type}`)
  }
  const value = cursor.number(type)
  if (type !== BOOL) return value
  if (value > 1) throw damaged(cursor.file, `${quote(key)} to be true or false`, `${value}`)
  return value === 1
}

function readArray(cursor: Cursor, key: string): GgufValue {
  const type = cursor.number(U32)
  const claimed = cursor.number(U64)
  const least = type === TEXT ? 8 : NUMBER_BYTES[type]
  if (least === undefined) {
    throw damaged(cursor.file, `${quote(key)} to be a list of numbers or texts`, `type ${type}`)
  }
  const most = Math.floor(cursor.left / least)
  if (claimed > most) {
    throw damaged(cursor.file, `${quote(key)} of at most ${most} elements`, `${claimed}`)
  }
  const values: (string | number | boolean)[] = []
  for (let i = 0; i < claimed; i++) values.push(readValue(cursor, key, type))
  return values as GgufValue
}

interface Info {
  readonly name: string
  readonly id: number
  readonly type: GgmlType | undefined
  readonly shape: readonly number[]
  readonly offset: number
  /** 0 of a type that is not read. */
  readonly bytes: number
}

function readInfo(cursor: Cursor): Info {
  const { file } = cursor
  const name = cursor.text('the name of a tensor', MAX_NAME_BYTES)
  const what = `tensor ${quote(name)}`
  const dimensions = cursor.number(U32)
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
    throw damaged(file, `${what} to have 1 to ${MAX_DIMENSIONS} dimensions`, `${dimensions}`)
  }
  const sizes = Array.from({ length: dimensions }, () => cursor.number(U64))
  const id = cursor.number(U32)
  const type = ggmlType(id)
  const offset = cursor.number(U64)
  let elements = 1
  for (const size of sizes) {
    elements *= size
    if (size >= 1 && Number.isSafeInteger(elements * 8)) continue
    throw damaged(file, `${what} to have sizes from 1 on`, `[${sizes.join(', ')}]`)
  }
  const shape = sizes.toReversed()
  if (type === undefined) return { name, id, type, shape, offset, bytes: 0 }
  const block = GGML_TYPES[type]
  if (sizes[0]! % block.elements !== 0) {
    const expected = `rows of ${what} to be multiples of ${block.elements}, as ${type} has them`
    throw damaged(file, expected, `${sizes[0]}`)
  }
  const bytes = (elements / block.elements) * block.bytes
  return { name, id, type, shape, offset, bytes }
}

function alignmentOf(file: string, metadata: Metadata): number {
  const value = metadata.get('general.alignment') ?? 32
  const isPower = typeof value === 'number' && Number.isInteger(Math.log2(value))
  if (isPower && value >= 1 && value <= MAX_ALIGNMENT) return value
  const expected = `general.alignment to be a power of two up to ${MAX_ALIGNMENT}`
  throw damaged(file, expected, String(value).slice(0, 40))
}

/** Each name once, each tensor aligned and inside the data, none over another. */
function checkLayout(file: string, infos: readonly Info[], alignment: number, dataBytes: number) {
  const names = new Set<string>()
  for (const { name } of infos) {
    if (names.has(name)) throw damaged(file, 'each tensor once', `${quote(name)} twice`)
    names.add(name)
  }
  let cursor = 0
  for (const { name, offset, bytes } of infos.toSorted((a, b) => a.offset - b.offset)) {
    const what = `tensor ${quote(name)}`
    if (offset % alignment !== 0) {
      throw damaged(file, `${what} to begin at a multiple of ${alignment}`, `${offset}`)
    }
    if (offset < cursor) {
      throw damaged(file, `${what} to begin at ${cursor} or later`, `${offset}`)
    }
    cursor = offset + bytes
    if (cursor > dataBytes) {
      throw damaged(file, `${what} to end at byte ${dataBytes} of the data`, `${cursor}`)
    }
  }
}
