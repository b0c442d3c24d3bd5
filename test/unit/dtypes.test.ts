// Element conversion against definitions written another way: values by their formula, rounding by
// looking at both neighbours. Every 16-bit pattern and every rounding boundary is tried.
// Alone: npx vitest run test/unit/dtypes.test.ts

import { describe, expect, it } from 'vitest'
import { convertElements } from '../../src/util/dtypes.ts'
import { seeded } from '../helpers/hostile.ts'

const ALL16 = Uint16Array.from({ length: 65536 }, (_, i) => i)
const bytes = (array: Uint16Array | Uint32Array): Uint8Array => new Uint8Array(array.buffer)
const words16 = (array: Uint8Array): Uint16Array => new Uint16Array(array.buffer)
const words32 = (array: Uint8Array): Uint32Array => new Uint32Array(array.buffer)
const floats = (array: Uint8Array): Float32Array => new Float32Array(array.buffer)

function valueOfF16(h: number): number {
  const [sign, exponent, mantissa] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023]
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : NaN
  if (exponent === 0) return sign * mantissa * 2 ** -24
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15)
}

/** The bits of 32-bit patterns narrowed one way, checked at and beside every midpoint of `to`. */
function checkMidpoints(to: 'F16' | 'BF16', widen: (bits: number) => number, finite: number): void {
  const inputs: number[] = []
  const expected: number[] = []
  for (let low = 0; low < finite; low++) {
    const middle = (widen(low) + widen(low + 1)) / 2
    // A midpoint below the smallest f32 step (bf16 subnormals) cannot be an input.
    if (Math.fround(middle) !== middle) continue
    const bits = new Uint32Array(Float32Array.of(middle).buffer)[0]!
    inputs.push(bits - 1, bits, bits + 1)
    expected.push(low, low + (low & 1), low + 1)
  }
  expect(inputs.length).toBeGreaterThan(90_000)
  for (const sign of [0, 1]) {
    const source = Uint32Array.from(inputs, (bits) => bits + sign * 2 ** 31)
    const result = words16(convertElements(bytes(source), 'F32', to))
    const wanted = Uint16Array.from(expected, (bits) => bits + sign * 2 ** 15)
    expect(Buffer.compare(bytes(result), bytes(wanted))).toBe(0)
  }
}

describe('element conversion', () => {
  it('widens every f16 and bf16 pattern to the value it stands for', () => {
    const f16 = floats(convertElements(bytes(ALL16), 'F16', 'F32'))
    expect(f16.every((value, h) => Object.is(value, valueOfF16(h)))).toBe(true)
    const bf16 = words32(convertElements(bytes(ALL16), 'BF16', 'F32'))
    expect(bf16.every((word, b) => word === b * 65536)).toBe(true)
  })

  it.each(['F16', 'BF16'] as const)('takes every %s pattern to f32 and back unchanged', (dtype) => {
    const back = words16(convertElements(convertElements(bytes(ALL16), dtype, 'F32'), 'F32', dtype))
    const quiet = dtype === 'F16' ? 0x200 : 0x40
    const infinity = dtype === 'F16' ? 0x7c00 : 0x7f80
    // Narrowing makes a signalling NaN quiet, as processors do; nothing else changes.
    const same = (word: number, i: number): boolean =>
      word === ((i & 0x7fff) > infinity ? i | quiet : i)
    expect(back.every(same)).toBe(true)
  })

  it('rounds f32 to the nearest f16, ties to even, at every boundary up to infinity', () => {
    // The last midpoint, 65520, is between the largest f16 and 2^16, where infinity stands.
    checkMidpoints('F16', (h) => (h === 0x7c00 ? 65536 : valueOfF16(h)), 0x7c00)
  })

  it('rounds f32 to the nearest bf16, ties to even, at every boundary up to infinity', () => {
    const word = new Uint32Array(1)
    const value = new Float32Array(word.buffer)
    const widen = (b: number): number => {
      word[0] = b << 16
      return b === 0x7f80 ? 2 ** 128 : value[0]!
    }
    checkMidpoints('BF16', widen, 0x7f80)
  })

  it('keeps NaN a NaN even when its payload lies in the bits that go', () => {
    const nans = Uint32Array.of(0x7f800001, 0xff800001, 0x7fffffff, 0xffc00000)
    expect([...words16(convertElements(bytes(nans), 'F32', 'F16'))]).toEqual([
      0x7e00, 0xfe00, 0x7fff, 0xfe00,
    ])
    expect([...words16(convertElements(bytes(nans), 'F32', 'BF16'))]).toEqual([
      0x7fc0, 0xffc0, 0x7fff, 0xffc0,
    ])
  })

  it('finds no nearer f16 neighbour for 200,000 random f32 patterns', () => {
    const random = seeded(7)
    const source = Uint32Array.from({ length: 200_000 }, () => random(2 ** 32))
    const result = words16(convertElements(bytes(source), 'F32', 'F16'))
    const values = new Float32Array(source.buffer)
    let wrong = 0
    for (const [i, value] of values.entries()) {
      if (Number.isNaN(value) || Math.abs(value) >= 65520) continue
      const error = Math.abs(valueOfF16(result[i]!) - value)
      const neighbours = [result[i]! + 1, result[i]! - 1].map((h) => h & 0xffff)
      for (const h of neighbours) if (Math.abs(valueOfF16(h) - value) < error) wrong++
    }
    expect(wrong).toBe(0)
  })

  it.each([
    ['F16', 'BF16'],
    ['BF16', 'F16'],
  ] as const)('converts every %s to %s as through f32, rounding once', (from, to) => {
    const through = convertElements(convertElements(bytes(ALL16), from, 'F32'), 'F32', to)
    expect(Buffer.compare(convertElements(bytes(ALL16), from, to), through)).toBe(0)
  })

  it('takes unaligned and shared sources and refuses a broken element', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(7), 1, 6)
    shared.set([0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00])
    const result = floats(convertElements(shared, 'F16', 'F32'))
    expect([...result]).toEqual([1, -2, 2 ** -24])
    expect(convertElements(shared, 'F16', 'F16')).toBe(shared)
    expect(() => convertElements(shared.subarray(1), 'F16', 'F32')).toThrow('whole number')
  })
})
