// A GGUF file, or a set that one was split into, as a checkpoint: config.json and Hugging Face names made from its
// header, and for each tensor how its raw bytes become the elements of that name (widen.ts).
// Source: llama.cpp's gguf-split for the names and keys of split files.

import { readdir } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { openForReading, readFully } from '../../io/read.ts'
import { DTYPE_BYTES, type DType } from '../../util/dtypes.ts'
import { UserError } from '../../util/errors.ts'
import { describe, listing, quote } from '../../util/untrusted.ts'
import type { Checkpoint, TensorEntry } from '../types.ts'
import { configOf, familyOf, ROPE_FACTORS } from './config.ts'
import { readGgufHeader, type GgufHeader, type GgufTensor } from './header.ts'
import { huggingFaceName, treatmentOf, type Family } from './names.ts'
import { GGML_TYPES } from './types.ts'
import type { Encoding } from './widen.ts'

const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/

export const isGgufName = (file: string): boolean => file.endsWith('.gguf')

/**
 * Path of the one .gguf in a folder, of a split set its first; undefined where there is none.
 * @throws UserError where there are several
 */
export async function ggufIn(folder: string): Promise<string | undefined> {
  const names = (await readdir(folder)).filter(isGgufName).sort()
  const firsts = names.filter((name) => Number(PART.exec(name)?.[2] ?? 1) === 1)
  if (firsts.length > 1) {
    throw new UserError(
      `${folder}: expected one GGUF file or config.json, found ${listing(firsts)}; name the file that is meant`,
    )
  }
  const first = firsts[0] ?? names[0]
  return first === undefined ? undefined : join(folder, first)
}

/**
 * Reads the headers of a GGUF file, or of the whole set if it is part of one.
 * @throws UserError for files that are damaged, missing, or of models that are not supported
 */
export async function openGguf(path: string): Promise<Checkpoint> {
  const parts = await readParts(resolve(path))
  const first = parts[0]!
  const family = familyOf(first)
  const tensors = new Map<string, GgufTensor>()
  const fileOf = new Map<string, string>()
  const others = new Map<string, string>()
  for (const part of parts) {
    for (const tensor of part.tensors) {
      const other = fileOf.get(tensor.name)
      if (other !== undefined) {
        throw new UserError(
          `${part.file}: expected ${quote(tensor.name)} in one file of the set only, found it in ${other} too; download the set again`,
        )
      }
      fileOf.set(tensor.name, part.file)
      tensors.set(tensor.name, tensor)
    }
    for (const [name, type] of part.others) {
      others.set(huggingFaceName(family, name) ?? name, type)
    }
  }
  checkTotal(first, parts.length, tensors.size + others.size)
  const factors = new Map<string, readonly number[]>()
  for (const name of ROPE_FACTORS) {
    const tensor = tensors.get(name)
    if (tensor) factors.set(name, await readVector(fileOf.get(name)!, tensor))
  }
  const config = configOf({ ...first, family, tensors, factors })
  const entries = new Map<string, TensorEntry>()
  for (const tensor of tensors.values()) {
    if (factors.has(tensor.name)) continue
    const entry = entryOf(family, tensor, fileOf.get(tensor.name)!, config)
    entries.set(entry.name, entry)
  }
  return {
    dir: dirname(first.file),
    config,
    format: 'gguf',
    tensors: entries,
    others,
    files: parts.map(({ file }) => file),
    gguf: first.metadata,
  }
}

/** The headers of a file's set, in order; of a file of its own that one. */
async function readParts(path: string): Promise<GgufHeader[]> {
  const [, stem, , digits] = PART.exec(basename(path)) ?? []
  const count = Number(digits ?? 1)
  const headers: GgufHeader[] = []
  for (let no = 0; no < count; no++) {
    const own = `${stem}-${String(no + 1).padStart(5, '0')}-of-${digits}.gguf`
    const header = await readGgufHeader(digits === undefined ? path : join(dirname(path), own))
    const found = [header.metadata.get('split.no') ?? 0, header.metadata.get('split.count') ?? 1]
    // A set of one has no need of the keys, and gguf-split writes 0 for it.
    const fits = found[0] === no && (found[1] === count || (count === 1 && found[1] === 0))
    if (!fits) {
      throw new UserError(
        `${header.file}: expected part ${no} of ${count} by its name, found split.no ${describe(found[0])} of split.count ${describe(found[1])}; give each part of a set its own name back`,
      )
    }
    headers.push(header)
  }
  if (headers[0]) return headers
  throw new UserError(
    `${path}: expected a set of at least one file, found a name that says ${count}`,
  )
}

/** @throws UserError if a set says how many tensors it has and has another number */
function checkTotal({ file, metadata }: GgufHeader, parts: number, found: number): void {
  const expected = metadata.get('split.tensors.count')
  if (parts === 1 || expected === undefined || expected === found) return
  throw new UserError(
    `${file}: expected ${describe(expected)} tensors in the ${parts} files of the set, found ${found}; download the set again`,
  )
}

/** Divisors of a rope are as many as half a head has columns. */
const MOST_FACTORS = 4096

async function readVector(file: string, { name, type, shape, offsetBytes, bytes }: GgufTensor) {
  if (type !== 'F32' || shape.length !== 1 || shape[0]! > MOST_FACTORS) {
    throw new UserError(
      `${file}: expected ${name} to be at most ${MOST_FACTORS} numbers of F32, found [${shape.join(', ')}] of ${type}; take another file of the model`,
    )
  }
  const { handle } = await openForReading(file)
  try {
    const raw = new Uint8Array(bytes)
    await readFully(handle, file, offsetBytes, raw)
    return [...new Float32Array(raw.buffer)]
  } finally {
    await handle.close()
  }
}

/** A tensor by its Hugging Face name, with the encoding where it does not lie in the file as that name means it. */
function entryOf(
  family: Family,
  tensor: GgufTensor,
  file: string,
  config: Readonly<Record<string, unknown>>,
): TensorEntry {
  const { type, shape, offsetBytes } = tensor
  const name = huggingFaceName(family, tensor.name) ?? tensor.name
  const { permuted, shifted, transposed } = treatmentOf(family, name)
  const isPlain = Object.hasOwn(DTYPE_BYTES, type) && !shifted
  const dtype = isPlain ? (type as DType) : 'F32'
  const elements = shape.reduce((product, size) => product * size, 1)
  const common = { name, dtype, file, offsetBytes, bytes: elements * DTYPE_BYTES[dtype] }
  const turns = transposed && shape.length === 2
  if (isPlain && !permuted && !turns) return { ...common, shape }
  const cols = shape.length === 1 && permuted ? 1 : shape.at(-1)!
  const encoding: Encoding = {
    type,
    dtype,
    offsetBytes,
    rows: elements / cols,
    cols,
    ...(permuted && { headRows: headRows(file, tensor, name, config) }),
    ...(turns && { transposed: true }),
    ...(shifted && { plus: -1 }),
  }
  return { ...common, shape: turns ? shape.toReversed() : shape, encoding }
}

/** Rows of a head of q or k, of which the file must have whole ones. */
function headRows(
  file: string,
  { name, shape, type }: GgufTensor,
  own: string,
  config: Readonly<Record<string, unknown>>,
): number {
  const heads = own.includes('.q_proj.') ? 'num_attention_heads' : 'num_key_value_heads'
  const rows = shape[0]! / Number(config[heads])
  const isWhole = shape.length === 2 || GGML_TYPES[type].elements === 1
  if (isWhole && Number.isSafeInteger(rows) && rows > 0 && rows % 2 === 0) return rows
  throw new UserError(
    `${file}: expected ${quote(name)} to have an even number of rows for each of ${describe(config[heads])} heads, found [${shape.join(', ')}] of ${type}; the file is damaged, download it again`,
  )
}
