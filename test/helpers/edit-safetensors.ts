// Changes a safetensors file in place: numbers of its first tensor, further tensors, dtypes.

import { readFileSync, writeFileSync } from 'node:fs'

interface Info {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

export interface Further {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: number
}

/**
 * @param numbers written over the beginning of the tensor `into`, or of the first one, as f32
 * @param further tensors of zeros, added at the end
 * @param dtypeOf another dtype of the same size for a tensor
 */
export function editSafetensors(
  path: string,
  numbers: (name: string) => Float32Array | undefined = () => undefined,
  further: Readonly<Record<string, Further>> = {},
  dtypeOf: (name: string) => string | undefined = () => undefined,
): void {
  const bytes = readFileSync(path)
  const headerBytes = Number(bytes.readBigUInt64LE())
  const header = JSON.parse(bytes.subarray(8, 8 + headerBytes).toString()) as Record<string, Info>
  const data = Buffer.from(bytes.subarray(8 + headerBytes))
  for (const [name, info] of Object.entries(header)) {
    if (name === '__metadata__') continue
    info.dtype = dtypeOf(name) ?? info.dtype
    const values = numbers(name)
    if (values) Buffer.from(values.buffer).copy(data, info.data_offsets[0])
  }
  let end = data.length
  for (const [name, { dtype, shape, bytes: size }] of Object.entries(further)) {
    header[name] = { dtype, shape: [...shape], data_offsets: [end, end + size] }
    end += size
  }
  const text = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(path, Buffer.concat([length, text, data, Buffer.alloc(end - data.length)]))
}
