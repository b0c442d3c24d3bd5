// The safetensors reader: 8 bytes of length, a JSON header, and nothing else is read. Every word
// of the header is untrusted until checked here; what comes out lies inside the file, without
// overlaps.
// Leaves tensor bytes to src/io/read.ts and writing to safetensors-writer.ts (whose functions it hands
// on).
// Source: the format page of the Hugging Face safetensors repository and its Rust crate's checks.
import { resolve } from 'node:path'
import { UserError } from '../util/errors.ts'
import { looksLikeLfsPointer, openForReading, readFully } from '../io/read.ts'
import { describe, isObject, quote } from '../util/untrusted.ts'
import type { FileTensors } from './types.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

export { writeSafetensors, writeShardedSafetensors } from './safetensors-writer.ts'
export type { FillTensor, TensorSink, TensorSpec } from './safetensors-writer.ts'

/** The limit of the reference implementation. */
const MAX_HEADER_BYTES = 100_000_000
/** Tensor entries nest three deep; more is not a safetensors header. */
const MAX_DEPTH = 8
const METADATA = '__metadata__'
/** Bytes of an element of every type of the format; those that no model uses are passed over. */
const SIZES: Readonly<Record<string, number>> = {
  ...DTYPE_BYTES,
  BOOL: 1,
  U8: 1,
  I8: 1,
  I16: 2,
  U16: 2,
  I32: 4,
  U32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
  C64: 8,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  F6_E2M3: 0.75,
  F6_E3M2: 0.75,
  F4: 0.5,
}

interface Range {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

/** What a file's header says; `metadata` is the `__metadata__` object or empty. */
interface SafetensorsHeader extends FileTensors {
  readonly metadata: Readonly<Record<string, string>>
}

/**
 * Reads and checks a file's header. Tensors come in file order. Throws UserError for anything that the
 * format does not allow.
 */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const file = resolve(path)
  const { handle, fileBytes } = await openForReading(file)
  try {
    const first = new Uint8Array(Math.min(fileBytes, 32))
    await readFully(handle, file, 0, first)
    const headerBytes = checkedHeaderBytes(first, file, fileBytes)
    const raw = new Uint8Array(headerBytes)
    await readFully(handle, file, 8, raw)
    const header = parseHeader(raw, file)
    const dataStart = 8 + headerBytes
    const ranges = Object.entries(header)
      .filter(([name]) => name !== METADATA)
      .map(([name, info]) => checkedRange(file, name, info))
    checkLayout(file, ranges, fileBytes - dataStart)
    const tensors = ranges.filter(isUsable).map(({ name, dtype, shape, begin, end }) => {
      return { name, dtype, shape, file, offsetBytes: dataStart + begin, bytes: end - begin }
    })
    const others = ranges
      .filter((range) => !isUsable(range))
      .map(({ name, dtype }) => ({ name, dtype }))
    return { tensors, others, metadata: checkedMetadata(file, header[METADATA]) }
  } finally {
    await handle.close()
  }
}

const isUsable = (range: Range): range is Range & { dtype: DType } =>
  Object.hasOwn(DTYPE_BYTES, range.dtype)

/** A sentence that ends every complaint about a file whose bytes are wrong. */
function damaged(file: string, expected: string, found: string): UserError {
  return new UserError(
    `${file}: expected ${expected}, found ${found}; the file is damaged, download it again`,
  )
}

function checkedHeaderBytes(first: Uint8Array, file: string, fileBytes: number): number {
  if (looksLikeLfsPointer(first)) {
    throw new UserError(`${file}: expected weights, found a Git LFS pointer; run git lfs pull`)
  }
  if (first.length < 10) throw damaged(file, 'a safetensors header', `${fileBytes} bytes in all`)
  const claimed = new DataView(first.buffer).getBigUint64(0, true)
  const limit = Math.min(MAX_HEADER_BYTES, fileBytes - 8)
  if (claimed > BigInt(limit) || claimed < 2n) {
    throw damaged(file, `a header of 2 to ${limit} bytes`, `a claim of ${claimed}`)
  }
  if (first[8] !== 0x7b) throw damaged(file, "a header that starts with '{'", `byte ${first[8]}`)
  return Number(claimed)
}

function parseHeader(raw: Uint8Array, file: string): Record<string, unknown> {
  let value: unknown
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw)
    checkKeys(text, file)
    value = JSON.parse(text)
  } catch (error) {
    if (error instanceof UserError) throw error
    throw damaged(file, 'a JSON header', 'invalid JSON')
  }
  if (!isObject(value)) throw damaged(file, 'a JSON object as header', describe(value))
  return value
}

/**
 * Refuses repeated keys, which JSON.parse would silently merge, and deep nesting, before anything
 * is built. Walks strings and brackets only: whether the text is JSON is for JSON.parse to say.
 */
function checkKeys(text: string, file: string): void {
  const open: Set<string>[] = []
  for (let i = 0; i < text.length; i++) {
    const char = text[i]
    if (char === '{' || char === '[') {
      if (open.push(new Set()) > MAX_DEPTH) {
        throw damaged(file, `a header nested at most ${MAX_DEPTH} deep`, 'deeper nesting')
      }
    } else if (char === '}' || char === ']') {
      open.pop()
    } else if (char === '"') {
      const start = i
      for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === '\\') i++
      let after = i + 1
      while (isJsonSpace(text.charCodeAt(after))) after++
      if (text[after] !== ':') continue
      const key = JSON.parse(text.slice(start, i + 1)) as string
      const keys = open.at(-1)
      if (keys?.has(key)) throw damaged(file, 'each key once', `${quote(key)} twice`)
      keys?.add(key)
    }
  }
}

function isJsonSpace(code: number): boolean {
  return code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09
}

function checkedMetadata(file: string, value: unknown): Record<string, string> {
  if (value === undefined) return {}
  if (!isObject(value)) throw damaged(file, `${METADATA} to be an object`, describe(value))
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw damaged(file, `${METADATA} of strings`, `${describe(text)} at ${quote(key)}`)
    }
  }
  return value as Record<string, string>
}

function checkedRange(file: string, name: string, info: unknown): Range {
  const what = `tensor ${quote(name)}`
  if (!isObject(info)) throw damaged(file, `${what} to be an object`, describe(info))
  const { dtype, shape, data_offsets: offsets } = info
  if (typeof dtype !== 'string' || !Object.hasOwn(SIZES, dtype)) {
    throw new UserError(
      `${file}: expected ${what} to be of a dtype that the format has, found ${describe(dtype)}; ` +
        `convert the checkpoint to F32, F16 or BF16`,
    )
  }
  if (!isSizes(shape)) throw damaged(file, `${what} to have sizes >= 0`, describe(shape))
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw damaged(file, `${what} to have data_offsets [begin, end]`, describe(offsets))
  }
  const [begin, end] = offsets as [number, number]
  const bytes = shape.reduce((product, size) => product * size, SIZES[dtype]!)
  // A product that overflowed on its way is caught by the second test even if a 0 followed.
  if (bytes !== end - begin || !everyProductIsSafe(shape)) {
    throw damaged(file, `${what} to span ${bytes} bytes`, `${end - begin}`)
  }
  return { name, dtype, shape, begin, end }
}

function isSizes(value: unknown): value is number[] {
  return (
    Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && Number(size) >= 0)
  )
}

function everyProductIsSafe(shape: readonly number[]): boolean {
  let product = 8
  return shape.every((size) => Number.isSafeInteger((product *= size)))
}

/** Sorts the ranges by place and checks that they tile the data area: no overlap, no hole. */
function checkLayout(file: string, ranges: Range[], dataBytes: number): void {
  ranges.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let cursor = 0
  for (const { name, begin, end } of ranges) {
    if (begin !== cursor) {
      const fault = begin < cursor ? 'overlaps the tensor before it' : 'leaves a hole before it'
      throw damaged(file, `tensor ${quote(name)} to begin at ${cursor}`, `${begin}, which ${fault}`)
    }
    cursor = end
  }
  if (cursor !== dataBytes) {
    throw damaged(file, `${cursor} bytes of tensors after the header`, `${dataBytes}`)
  }
}
