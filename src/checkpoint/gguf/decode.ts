// Blocks of GGUF's types to f32, bit for bit as the `gguf` package's quants.py (test/fixtures/gguf/). Products are exact
// in f64 and so are sums: scales are multiples of 2^-24 below 2^16, quantised numbers have 6 bits at most.
// Each is rounded to f32 once, when it is stored. Tight loops: nothing is called or allocated in a block.

import { f16BitsToF32Bits } from '../../util/dtypes.ts'
import { GGML_TYPES, type GgmlType } from './types.ts'

/** Decodes `blocks` blocks of raw bytes into as many elements from the front of `out`. */
type Decode = (raw: Uint8Array, blocks: number, out: Float32Array) => void

let table: Float32Array | undefined

/** The value of each f16. */
function halves(): Float32Array {
  table ??= new Float32Array(
    Uint32Array.from({ length: 65536 }, (_, h) => f16BitsToF32Bits(h)).buffer,
  )
  return table
}

const DECODE: Readonly<Record<GgmlType, Decode>> = {
  F32: (raw, blocks, out) => {
    new Uint8Array(out.buffer, out.byteOffset, blocks * 4).set(raw.subarray(0, blocks * 4))
  },
  F16: (raw, blocks, out) => {
    const half = halves()
    for (let i = 0, p = 0; i < blocks; i++, p += 2) out[i] = half[raw[p]! | (raw[p + 1]! << 8)]!
  },
  BF16: (raw, blocks, out) => {
    const bits = new Uint32Array(out.buffer, out.byteOffset, blocks)
    for (let i = 0, p = 0; i < blocks; i++, p += 2) bits[i] = (raw[p]! << 16) | (raw[p + 1]! << 24)
  },
  Q4_0: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 18, o += 32) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      for (let i = 0; i < 16; i++) {
        const byte = raw[p + 2 + i]!
        out[o + i] = d * ((byte & 15) - 8)
        out[o + 16 + i] = d * ((byte >> 4) - 8)
      }
    }
  },
  Q4_1: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 20, o += 32) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      const m = half[raw[p + 2]! | (raw[p + 3]! << 8)]!
      for (let i = 0; i < 16; i++) {
        const byte = raw[p + 4 + i]!
        out[o + i] = d * (byte & 15) + m
        out[o + 16 + i] = d * (byte >> 4) + m
      }
    }
  },
  Q5_0: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 22, o += 32) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      const high = raw[p + 2]! | (raw[p + 3]! << 8) | (raw[p + 4]! << 16) | (raw[p + 5]! << 24)
      for (let i = 0; i < 16; i++) {
        const byte = raw[p + 6 + i]!
        out[o + i] = d * (((byte & 15) | (((high >>> i) & 1) << 4)) - 16)
        out[o + 16 + i] = d * (((byte >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16)
      }
    }
  },
  Q5_1: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 24, o += 32) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      const m = half[raw[p + 2]! | (raw[p + 3]! << 8)]!
      const high = raw[p + 4]! | (raw[p + 5]! << 8) | (raw[p + 6]! << 16) | (raw[p + 7]! << 24)
      for (let i = 0; i < 16; i++) {
        const byte = raw[p + 8 + i]!
        out[o + i] = d * ((byte & 15) | (((high >>> i) & 1) << 4)) + m
        out[o + 16 + i] = d * ((byte >> 4) | (((high >>> (i + 16)) & 1) << 4)) + m
      }
    }
  },
  Q8_0: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 34, o += 32) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      for (let i = 0; i < 32; i++) out[o + i] = d * ((raw[p + 2 + i]! << 24) >> 24)
    }
  },
  Q2_K: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 84, o += 256) {
      const d = half[raw[p + 80]! | (raw[p + 81]! << 8)]!
      const dmin = half[raw[p + 82]! | (raw[p + 83]! << 8)]!
      // Sixteen groups of 16: of each half, of each two bits, of each half of 32 bytes.
      for (let g = 0; g < 16; g++) {
        const scale = raw[p + g]!
        const [dl, ml] = [d * (scale & 15), dmin * (scale >> 4)]
        const at = p + 16 + (g >> 3) * 32 + (g & 1) * 16
        const shift = ((g >> 1) & 3) * 2
        for (let i = 0; i < 16; i++) out[o + g * 16 + i] = dl * ((raw[at + i]! >> shift) & 3) - ml
      }
    }
  },
  Q3_K: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 110, o += 256) {
      const d = half[raw[p + 108]! | (raw[p + 109]! << 8)]!
      for (let g = 0; g < 16; g++) {
        const low = (raw[p + 96 + (g & 7)]! >> ((g >> 3) * 4)) & 15
        const scale = low | (((raw[p + 104 + (g & 3)]! >> ((g >> 2) * 2)) & 3) << 4)
        const dl = d * (scale - 32)
        const mask = p + (g & 1) * 16
        const at = p + 32 + (g >> 3) * 32 + (g & 1) * 16
        const [shift, bit] = [((g >> 1) & 3) * 2, g >> 1]
        for (let i = 0; i < 16; i++) {
          const none = ((raw[mask + i]! >> bit) & 1) ^ 1
          out[o + g * 16 + i] = dl * (((raw[at + i]! >> shift) & 3) - (none << 2))
        }
      }
    }
  },
  Q4_K: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 144, o += 256) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      const dmin = half[raw[p + 2]! | (raw[p + 3]! << 8)]!
      for (let c = 0; c < 4; c++) {
        const [d0, m0] = [d * scaleOf(raw, p + 4, 2 * c), dmin * minOf(raw, p + 4, 2 * c)]
        const [d1, m1] = [d * scaleOf(raw, p + 4, 2 * c + 1), dmin * minOf(raw, p + 4, 2 * c + 1)]
        const at = p + 16 + c * 32
        const to = o + c * 64
        for (let i = 0; i < 32; i++) {
          const byte = raw[at + i]!
          out[to + i] = d0 * (byte & 15) - m0
          out[to + 32 + i] = d1 * (byte >> 4) - m1
        }
      }
    }
  },
  Q5_K: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 176, o += 256) {
      const d = half[raw[p]! | (raw[p + 1]! << 8)]!
      const dmin = half[raw[p + 2]! | (raw[p + 3]! << 8)]!
      for (let c = 0; c < 4; c++) {
        const [d0, m0] = [d * scaleOf(raw, p + 4, 2 * c), dmin * minOf(raw, p + 4, 2 * c)]
        const [d1, m1] = [d * scaleOf(raw, p + 4, 2 * c + 1), dmin * minOf(raw, p + 4, 2 * c + 1)]
        const at = p + 48 + c * 32
        const to = o + c * 64
        for (let i = 0; i < 32; i++) {
          const byte = raw[at + i]!
          const high = raw[p + 16 + i]! >> (2 * c)
          out[to + i] = d0 * ((byte & 15) | ((high & 1) << 4)) - m0
          out[to + 32 + i] = d1 * ((byte >> 4) | ((high & 2) << 3)) - m1
        }
      }
    }
  },
  Q6_K: (raw, blocks, out) => {
    const half = halves()
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 210, o += 256) {
      const d = half[raw[p + 208]! | (raw[p + 209]! << 8)]!
      // Of each half of the block, four groups of 32: low and high nibbles of 64 bytes, two bits each of 32.
      for (let g = 0; g < 8; g++) {
        const [side, quarter] = [g >> 2, g & 3]
        const low = p + side * 64 + (quarter & 1) * 32
        const high = p + 128 + side * 32
        const [lowShift, highShift] = [(quarter >> 1) * 4, quarter * 2]
        const to = o + g * 32
        const d0 = d * ((raw[p + 192 + g * 2]! << 24) >> 24)
        const d1 = d * ((raw[p + 193 + g * 2]! << 24) >> 24)
        for (let i = 0; i < 16; i++) {
          const q = ((raw[low + i]! >> lowShift) & 15) | (((raw[high + i]! >> highShift) & 3) << 4)
          out[to + i] = d0 * (q - 32)
        }
        for (let i = 16; i < 32; i++) {
          const q = ((raw[low + i]! >> lowShift) & 15) | (((raw[high + i]! >> highShift) & 3) << 4)
          out[to + i] = d1 * (q - 32)
        }
      }
    }
  },
}

/** Scale number j of eight, of 6 bits, in the twelve bytes of Q4_K and Q5_K. */
const scaleOf = (raw: Uint8Array, s: number, j: number): number =>
  j < 4 ? raw[s + j]! & 63 : (raw[s + j + 4]! & 15) | ((raw[s + j - 4]! >> 6) << 4)

/** Minimum number j of eight. */
const minOf = (raw: Uint8Array, s: number, j: number): number =>
  j < 4 ? raw[s + j + 4]! & 63 : (raw[s + j + 4]! >> 4) | ((raw[s + j]! >> 6) << 4)

/** Widens whole blocks of `type` to f32; `out` has room for exactly their elements. */
export function decodeBlocks(type: GgmlType, raw: Uint8Array, out: Float32Array): void {
  DECODE[type](raw, out.length / GGML_TYPES[type].elements, out)
}
