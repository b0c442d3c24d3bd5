// The safetensors writer: header first, then every tensor's bytes as the caller produces them, in
// bounded memory, into a file that appears whole or not at all. Also Hugging Face's sharded
// layout.
// Leaves reading to safetensors.ts, dtype conversion to src/util/dtypes.ts, durability to src/io/atomic.ts.
// Source: the format page of the Hugging Face safetensors repository; index as transformers saves
// it.
import { join } from 'node:path'
import { UserError } from '../util/errors.ts'
import { writeAtomically, writeTextAtomically, type Append } from '../io/atomic.ts'
import { quote } from '../util/untrusted.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

/** A tensor to be written: row-major, little-endian. */
export interface TensorSpec {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
}

/** Takes a tensor's bytes in order; a chunk may be reused once its promise has resolved. */
export interface TensorSink {
  write(chunk: Uint8Array): Promise<void>
}

/** Writes all bytes of tensor number `index` of the caller's list to `sink`. */
export type FillTensor = (index: number, sink: TensorSink) => Promise<void>

/** Free-form strings of the header; null leaves `__metadata__` out altogether. */
type Metadata = Readonly<Record<string, string>> | null

const DEFAULT_METADATA: Metadata = { format: 'pt' }
const DEFAULT_MAX_SHARD_BYTES = 5_000_000_000

/**
 * Writes one file. Tensors lie in the given order, 4-byte ones before 2-byte ones, so that each is
 * aligned (PyTorch needs that); `fill` is called once per tensor in that order. The header is
 * padded with spaces to 8 bytes. Throws UserError when the disk is full, Error when `fill` writes
 * too much or too little; then nothing stays behind.
 */
export async function writeSafetensors(
  path: string,
  content: { tensors: readonly TensorSpec[]; metadata?: Metadata },
  fill: FillTensor,
): Promise<void> {
  const { tensors, metadata = DEFAULT_METADATA } = content
  const order = fileOrder(tensors)
  const header = encodeHeader(order, tensors, metadata)
  const totalBytes = tensors.reduce((sum, tensor) => sum + dataBytes(tensor), header.length)
  await writeAtomically(path, totalBytes, async (append) => {
    await append(header)
    for (const index of order)
      await writeTensor(tensors[index]!, append, (sink) => fill(index, sink))
  })
}

/**
 * Writes a folder's weights: `model.safetensors` if all tensors fit into `maxShardBytes` (default
 * 5 GB, without headers), else numbered shards and then their index. A larger tensor gets a shard
 * of its own. `dir` must exist and hold no other weights.
 */
export async function writeShardedSafetensors(
  dir: string,
  tensors: readonly TensorSpec[],
  fill: FillTensor,
  options: { maxShardBytes?: number | undefined; metadata?: Metadata } = {},
): Promise<void> {
  const { maxShardBytes = DEFAULT_MAX_SHARD_BYTES, metadata = DEFAULT_METADATA } = options
  const shards = planShards(tensors, maxShardBytes)
  const weightMap: [name: string, file: string][] = []
  for (const [number, indices] of shards.entries()) {
    const file = shardName(number, shards.length)
    const own = indices.map((index) => tensors[index]!)
    await writeSafetensors(join(dir, file), { tensors: own, metadata }, (index, sink) =>
      fill(indices[index]!, sink),
    )
    for (const { name } of own) weightMap.push([name, file])
  }
  if (shards.length === 1) return
  const index = {
    metadata: { total_size: tensors.reduce((sum, tensor) => sum + dataBytes(tensor), 0) },
    weight_map: Object.fromEntries(weightMap.sort(([a], [b]) => (a < b ? -1 : 1))),
  }
  const text = `${JSON.stringify(index, null, 2)}\n`
  await writeTextAtomically(join(dir, 'model.safetensors.index.json'), text)
}

/** Bytes of a tensor's elements. */
function dataBytes(tensor: Pick<TensorSpec, 'dtype' | 'shape'>): number {
  return tensor.shape.reduce((product, size) => product * size, DTYPE_BYTES[tensor.dtype])
}

async function writeTensor(
  tensor: TensorSpec,
  append: Append,
  fill: (sink: TensorSink) => Promise<void>,
): Promise<void> {
  const expected = dataBytes(tensor)
  let written = 0
  await fill({
    async write(chunk) {
      written += chunk.byteLength
      if (written > expected) {
        throw new Error(`${tensor.name} has ${expected} bytes, but ${written} were written`)
      }
      await append(chunk)
    },
  })
  if (written !== expected) {
    throw new Error(`${tensor.name} has ${expected} bytes, but ${written} were written`)
  }
}

function fileOrder(tensors: readonly TensorSpec[]): number[] {
  return tensors
    .map((_, index) => index)
    .sort((a, b) => DTYPE_BYTES[tensors[b]!.dtype] - DTYPE_BYTES[tensors[a]!.dtype] || a - b)
}

function encodeHeader(
  order: readonly number[],
  tensors: readonly TensorSpec[],
  metadata: Metadata,
): Uint8Array {
  const fields = metadata === null ? [] : [`"__metadata__":${JSON.stringify(metadata)}`]
  const names = new Set(['__metadata__'])
  let begin = 0
  for (const index of order) {
    const { name, dtype, shape } = tensors[index]!
    if (names.has(name))
      throw new UserError(`${quote(name)} cannot name a tensor twice in one file`)
    names.add(name)
    const end = begin + dataBytes(tensors[index]!)
    const info = JSON.stringify({ dtype, shape, data_offsets: [begin, end] })
    fields.push(`${JSON.stringify(name)}:${info}`)
    begin = end
  }
  const json = new TextEncoder().encode(`{${fields.join(',')}}`)
  const header = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true)
  header.set(json, 8)
  return header
}

/** Tensor numbers per shard: in order, a new shard when the next tensor would not fit. */
function planShards(tensors: readonly TensorSpec[], maxShardBytes: number): number[][] {
  const shards: number[][] = [[]]
  let usedBytes = 0
  for (const [index, tensor] of tensors.entries()) {
    const bytes = dataBytes(tensor)
    if (usedBytes + bytes > maxShardBytes && shards.at(-1)!.length > 0) {
      shards.push([])
      usedBytes = 0
    }
    shards.at(-1)!.push(index)
    usedBytes += bytes
  }
  return shards
}

function shardName(number: number, count: number): string {
  if (count === 1) return 'model.safetensors'
  const digits = (value: number): string => String(value).padStart(5, '0')
  return `model-${digits(number + 1)}-of-${digits(count)}.safetensors`
}
