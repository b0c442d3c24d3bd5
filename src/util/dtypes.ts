// The element types of weights, and conversion of elements between F32, F16 and BF16 on their bit patterns, so that NaN
// payloads and the sign of zero survive on every processor. Rounding is to nearest,
// ties to even. 16-bit inputs go through a 64 Ki-entry table, made on first use: every answer is
// computed once.
// Source: IEEE 754-2019, sections 3.4, 4.3.1 and 6.2.3; bfloat16 is the upper half of binary32.

/** Element types a checkpoint may hold, by their safetensors names. */
export type DType = 'F32' | 'F16' | 'BF16'

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = { F32: 4, F16: 2, BF16: 2 }

/** Element types by the names that PyTorch and the options of this project have for them. */
export const DTYPES = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const

let f32OfF16: Uint32Array | undefined
let bf16OfF16: Uint16Array | undefined
let f16OfBf16: Uint16Array | undefined

/** Bits of the binary32 value equal to the binary16 value `h` (0..65535). Exact. */
export function f16BitsToF32Bits(h: number): number {
  const sign = (h & 0x8000) << 16
  const exponent = (h >>> 10) & 31
  const mantissa = h & 0x3ff
  if (exponent === 31) return (sign | 0x7f800000 | (mantissa << 13)) >>> 0
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0
  if (mantissa === 0) return sign >>> 0
  // Subnormal: mantissa * 2^-24, normalised by moving its leading one to bit 10.
  const shift = Math.clz32(mantissa) - 21
  return (sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13)) >>> 0
}

/** Bits of the binary16 value nearest to the binary32 bits `u`; too large becomes infinity. */
export function f32BitsToF16Bits(u: number): number {
  const sign = (u >>> 16) & 0x8000
  const magnitude = u & 0x7fffffff
  if (magnitude >= 0x38800000) {
    if (magnitude >= 0x47800000) {
      if (magnitude <= 0x7f800000) return sign | 0x7c00
      return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff)
    }
    // Adding just under half, plus the bit that decides ties, carries into the exponent by itself.
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
  }
  if (magnitude < 0x33000000) return sign
  // Subnormal in binary16: a multiple of 2^-24, the full significand shifted by 14 to 24 places.
  const shift = 126 - (magnitude >>> 23)
  const significand = (magnitude & 0x7fffff) | 0x800000
  const odd = (significand >>> shift) & 1
  return sign | ((significand + (1 << (shift - 1)) - 1 + odd) >>> shift)
}

/** Bits of the bfloat16 value nearest to the binary32 bits `u`. */
function f32BitsToBf16Bits(u: number): number {
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40
  return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16
}

/**
 * Converts little-endian elements. `src` may be unaligned and may view any memory; its length must
 * be whole elements. Returns a new array, or `src` itself when nothing has to change.
 */
export function convertElements(src: Uint8Array, from: DType, to: DType): Uint8Array {
  const count = src.byteLength / DTYPE_BYTES[from]
  if (!Number.isInteger(count)) {
    throw new Error(`${src.byteLength} bytes are not a whole number of ${from} elements`)
  }
  if (from === to) return src
  if (from === 'F32') return narrow(aligned(src, 4), count, to)
  const bits = aligned(src, 2)
  const input = new Uint16Array(bits.buffer, bits.byteOffset, count)
  if (to === 'F32') return from === 'F16' ? widenF16(input) : widenBf16(input)
  return cross(input, from === 'F16' ? bf16OfF16Table() : f16OfBf16Table())
}

function narrow(src: Uint8Array, count: number, to: DType): Uint8Array {
  const input = new Uint32Array(src.buffer, src.byteOffset, count)
  const output = new Uint16Array(count)
  if (to === 'F16') for (let i = 0; i < count; i++) output[i] = f32BitsToF16Bits(input[i]!)
  else for (let i = 0; i < count; i++) output[i] = f32BitsToBf16Bits(input[i]!)
  return new Uint8Array(output.buffer)
}

function widenBf16(input: Uint16Array): Uint8Array {
  const output = new Uint32Array(input.length)
  for (let i = 0; i < input.length; i++) output[i] = input[i]! << 16
  return new Uint8Array(output.buffer)
}

function widenF16(input: Uint16Array): Uint8Array {
  const table = (f32OfF16 ??= Uint32Array.from({ length: 65536 }, (_, h) => f16BitsToF32Bits(h)))
  const output = new Uint32Array(input.length)
  for (let i = 0; i < input.length; i++) output[i] = table[input[i]!]!
  return new Uint8Array(output.buffer)
}

function cross(input: Uint16Array, table: Uint16Array): Uint8Array {
  const output = new Uint16Array(input.length)
  for (let i = 0; i < input.length; i++) output[i] = table[input[i]!]!
  return new Uint8Array(output.buffer)
}

function bf16OfF16Table(): Uint16Array {
  bf16OfF16 ??= Uint16Array.from({ length: 65536 }, (_, h) =>
    f32BitsToBf16Bits(f16BitsToF32Bits(h)),
  )
  return bf16OfF16
}

function f16OfBf16Table(): Uint16Array {
  f16OfBf16 ??= Uint16Array.from({ length: 65536 }, (_, b) => f32BitsToF16Bits(b << 16))
  return f16OfBf16
}

/** `src` where typed arrays of that element size can view it; copied only if it is not aligned. */
function aligned(src: Uint8Array, elementBytes: number): Uint8Array {
  return src.byteOffset % elementBytes === 0 ? src : new Uint8Array(src)
}
