// f16 activations on the host: what is written to a device and read back. Loops of JavaScript, for rows
// that come from the host anyway; devices convert their own (device/cpu/f16.ts, webgpu/kernels).

import { f16BitsToF32Bits, f32BitsToF16Bits } from '../util/dtypes.ts'

/** The largest f16; values beyond it are stored as it. */
export const LARGEST_HALF = 65_504
const LARGEST_BITS = 0x7bff

/** The nearest f16 of each value, ties to even, none of them infinite; a NaN stays one. */
export function toHalves(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const halves = new Uint16Array(values.length)
  for (let i = 0; i < halves.length; i++) {
    const half = f32BitsToF16Bits(bits[i]!)
    halves[i] = (half & 0x7fff) === 0x7c00 ? (half & 0x8000) | LARGEST_BITS : half
  }
  return halves
}

/** f16 values as f32, exactly. */
export function fromHalves(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(halves.length)
  for (let i = 0; i < bits.length; i++) bits[i] = f16BitsToF32Bits(halves[i]!)
  return new Float32Array(bits.buffer)
}
