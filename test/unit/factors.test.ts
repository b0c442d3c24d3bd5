// Factored changes: the SIMD kernel has the bits of the plain loops, whichever elements are asked
// for; several directions of one step have noise of their own.
// Alone: npx vitest run test/unit/factors.test.ts

import { describe, expect, it } from 'vitest'
import { type FactorTerm } from '../../src/noise/factors.ts'
import { applyFactors } from '../reference/noise.ts'
import { noiseKey, threefry2x32 } from '../../src/noise/threefry.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'

const randoms = (count: number, seed: number) =>
  Float32Array.from({ length: count }, (_, i) => threefry2x32(seed, 7, i, 0)[0] / 2 ** 31 - 1)

function term(kind: FactorTerm['kind'], rows: number, cols: number, seed: number): FactorTerm {
  if (kind === 'low-rank') {
    return { kind, rank: 3, left: randoms(rows * 3, seed), right: randoms(3 * cols, seed + 1) }
  }
  const [m2, n2] = [rows % 3 === 0 ? 3 : 1, cols % 5 === 0 ? 5 : 1]
  const [m1, n1] = [rows / m2, cols / n2]
  return { kind, m2, n1, n2, left: randoms(m1 * n1, seed), right: randoms(m2 * n2, seed + 1) }
}

describe('a factored change', () => {
  const kernel = createNoiseKernel()
  it.each([
    [9, 35, 0, 315],
    [9, 35, 17, 200],
    [6, 20_000, 15_001, 70_003],
    [3, 16_384, 16_384, 16_384],
    [12, 1, 2, 9],
  ])(
    'has the bits of the plain loops: [%d, %d] from %d, %d elements',
    (rows, cols, first, count) => {
      const w = randoms(rows * cols, 1)
      for (const decay of [1, Math.fround(0.999)]) {
        for (const kind of ['low-rank', 'kronecker'] as const) {
          const terms = [term(kind, rows, cols, 2), term(kind, rows, cols, 4)]
          const expected = w.slice(first, first + count)
          applyFactors(expected, first, cols, { decay, terms })
          const out = new Float32Array(count)
          const raw = new Uint8Array(w.buffer, first * 4, count * 4)
          kernel.change(raw, 'F32', first, cols, { kind: 'factored', decay, terms }, out)
          expect(Buffer.compare(Buffer.from(out.buffer), Buffer.from(expected.buffer))).toBe(0)
          expect(out).not.toEqual(w.slice(first, first + count))
        }
      }
    },
  )

  it('of Kronecker factors is the Kronecker product', () => {
    const left = Float32Array.from([1, 2, 3, 4, 5, 6]) // [2, 3]
    const right = Float32Array.from([1, -1, 2, 0]) // [2, 2]
    const w = new Float32Array(4 * 6)
    applyFactors(w, 0, 6, {
      decay: 1,
      terms: [{ kind: 'kronecker', m2: 2, n1: 3, n2: 2, left, right }],
    })
    for (let row = 0; row < 4; row++) {
      for (let col = 0; col < 6; col++) {
        const a = left[Math.floor(row / 2) * 3 + Math.floor(col / 2)]!
        expect(w[row * 6 + col]).toBe(a * right[(row % 2) * 2 + (col % 2)]!)
      }
    }
  })
})

describe('directions of one step', () => {
  it('have noise of their own, the first that of a single one', () => {
    const key = (direction?: number) => noiseKey(3, 4, 'w', 'z', direction)
    expect(key(0)).toEqual(key())
    const keys = [0, 1, 2, 300].map((d) => JSON.stringify(key(d)))
    expect(new Set(keys).size).toBe(4)
    const kernel = createNoiseKernel()
    const raw = new Uint8Array(64 * 4)
    const versions = [0, 1, 2, 3].map(() => new Float32Array(64))
    const keysOf = [key(0), key(0), key(1), key(1)]
    const recipe = { noise: 'gaussian', terms: [], keys: keysOf, scales: [1, -1, 1, -1] } as const
    kernel.apply(raw, 'F32', 0, recipe, versions)
    expect(versions[1]).toEqual(versions[0]!.map((v) => 0 - v))
    expect(versions[3]).toEqual(versions[2]!.map((v) => 0 - v))
    expect(versions[2]).not.toEqual(versions[0])
  })
})
