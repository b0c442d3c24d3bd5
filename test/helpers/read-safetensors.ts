// A safetensors file of f32 tensors by the format's description, independent of src/weights.

export interface ReadTensor {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

export function readSafetensors(file: Uint8Array): Map<string, ReadTensor> {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(Buffer.from(file.subarray(8, 8 + length)).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const found = new Map<string, ReadTensor>()
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    if (dtype !== 'F32') throw new Error(`${name}: ${dtype}`)
    const [start, end] = data_offsets.map((offset) => offset + 8 + length)
    found.set(name, {
      shape,
      values: new Float32Array(Uint8Array.from(file.subarray(start, end)).buffer),
    })
  }
  return found
}
