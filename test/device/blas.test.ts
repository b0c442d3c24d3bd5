// A BLAS of the system (--blas): values, bits that do not depend on other rows and threads, whole texts, and what is
// said of libraries that are missing or do not repeat their bits. Libraries that this machine lacks are skipped by name;
// scripts/setup-blas.sh installs OpenBLAS. Alone: npx vitest run test/device/blas.test.ts

import { afterAll, describe, expect, it } from 'vitest'
import { BLAS_KINDS, findBlas, openBlas, prove, type Blas } from '../../src/device/cpu/blas.ts'
import { createOps } from '../../src/device/cpu/ops.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import { packTexts } from '../../src/data/packing.ts'
import { lossesOf } from '../../src/engine/forward.ts'
import { createEngine } from '../../src/engine/engine.ts'
import { syntheticModel } from '../../src/engine/load.ts'
import { designOf, UNTRAINED } from '../../src/engine/open.ts'
import { parseConfig } from '../../src/config/options.ts'
import { withScratchFolder } from '../../src/io/scratch.ts'
import { randomOf } from '../helpers/random.ts'
import { values } from '../helpers/devices.ts'

/** A matrix of so many elements is multiplied by the BLAS. */
const [N, K, M] = [1000, 768, 300]
const x = values(M * K, 1)
const w = values(N * K, 2)

/** start + x * w in f64, for a few rows. */
function expected(row: number, transposed: boolean, start: (n: number) => number): number[] {
  return Array.from({ length: N }, (_, n) => {
    let sum = start(n)
    for (let k = 0; k < K; k++) sum += x[row * K + k]! * w[transposed ? k * N + n : n * K + k]!
    return sum
  })
}

const near = (found: ArrayLike<number>, wanted: readonly number[]) =>
  Math.max(...wanted.map((value, i) => Math.abs(value - found[i]!)))

describe.each(BLAS_KINDS)('%s', (kind) => {
  const there = findBlas(kind).length > 0

  it.skipIf(!there)('multiplies, from each start, with and without relu', async () => {
    const ops = createOps(2, await openBlas(kind, 2))
    try {
      const bias = values(N, 3)
      const before = values(M * N, 4)
      for (const transposed of [false, true]) {
        for (const start of ['zero', 'there', { bias }] as const) {
          for (const relu of [false, true]) {
            const y = before.slice()
            await ops.gemm(x, w, y, { m: M, n: N, k: K }, { start, relu, transposed })
            for (const row of [0, 1, M - 1]) {
              const from = (n: number) =>
                start === 'zero' ? 0 : start === 'there' ? before[row * N + n]! : bias[n]!
              const sums = expected(row, transposed, from)
              const wanted = relu ? sums.map((sum) => Math.max(0, sum)) : sums
              expect(near(y.subarray(row * N, (row + 1) * N), wanted)).toBeLessThan(2e-4)
            }
          }
        }
      }
    } finally {
      ops.close()
    }
  })

  it.skipIf(!there)(
    'gives a row its bits alone, among others, by one thread and by several',
    async () => {
      const blas = await openBlas(kind, 2)
      const both = [createOps(1, blas), createOps(2, blas)]
      try {
        for (const [n, k] of [
          [N, K],
          [64, 8192],
          [768, 3072 - 32],
          [768, 3072 - 16],
        ] as const) {
          const [rows, matrix] = [values(M * k, 5), values(n * k, 6)]
          const all = new Float32Array(M * n)
          await both[1]!.gemm(rows, matrix, all, { m: M, n, k })
          const random = randomOf(n)
          const counts = [
            1,
            2,
            3,
            4,
            7,
            8,
            15,
            16,
            17,
            31,
            48,
            65,
            ...Array.from({ length: 12 }, () => random.whole(1, M)),
          ]
          for (const m of counts) {
            const first = random.whole(1, M - m + 1) - 1
            for (const ops of both) {
              const some = new Float32Array(m * n)
              await ops.gemm(rows.slice(first * k, (first + m) * k), matrix, some, { m, n, k })
              expect(some, `${m} rows from ${first}`).toEqual(all.slice(first * n, (first + m) * n))
            }
          }
        }
      } finally {
        for (const ops of both) ops.close()
      }
    },
  )

  it.skipIf(!there)(
    'gives a text the losses that it has alone, near those of ONNX Runtime',
    async () => {
      const { model, checkpoint } = syntheticModel({ size: 'opt-125m', layers: 1 })
      const texts = [5, 3, 9, 4].map((length, i) => {
        const inputIds = Array.from({ length }, (_, t) => 100 * i + t)
        return { inputIds, labels: inputIds }
      })
      const losses = async (blas: string) => {
        const device = await openCpu({ blas, threads: 2 })
        try {
          return await withScratchFolder(async (scratchDir) => {
            const design = designOf({ model }, parseConfig({}), false)
            const engine = await createEngine(device, {
              ...design,
              ...UNTRAINED,
              checkpoint,
              scratchDir,
            })
            try {
              const probes = { step: 0, list: engine.options.estimator.probes(1e-3) }
              const of = async (some: typeof texts) =>
                (await lossesOf(engine, packTexts(some), probes)).map((ofProbe) => [...ofProbe])
              const together = await of(texts)
              const alone: number[][][] = []
              for (const text of texts) alone.push(await of([text]))
              return { together, alone }
            } finally {
              await engine.close()
            }
          })
        } finally {
          await device.close()
        }
      }
      const [own, plain] = [await losses(kind), await losses('onnxruntime')]
      own.together.forEach((ofProbe, p) => {
        expect(own.alone.flatMap((of) => of[p]!)).toEqual(ofProbe)
        expect(near(ofProbe, plain.together[p]!)).toBeLessThan(1e-4)
      })
      expect(own.together).not.toEqual(plain.together)
    },
  )
})

describe('a library of --blas', () => {
  it('is none for onnxruntime, one error for what is not there or is no BLAS', async () => {
    expect(await openBlas('onnxruntime', 2)).toBeNull()
    await expect(openBlas('/nowhere/libblas.so', 2)).rejects.toThrow(
      '--blas /nowhere/libblas.so: /nowhere/libblas.so: it cannot be loaded',
    )
    await expect(openBlas('/lib/x86_64-linux-gnu/libm.so.6', 2)).rejects.toThrow("'cblas_sgemm'")
  })

  const plain = createOps(2)
  afterAll(() => plain.close())

  /** ONNX Runtime's products, changed. */
  const multiplier = (change: (sum: number, m: number, threads: number) => number): Blas => ({
    name: 'made up',
    async sgemm(a, b, y, size, { transposed = false, threads }) {
      await plain.gemm(a, b, y, size, { transposed })
      y.forEach((sum, i) => (y[i] = change(sum, size.m, threads)))
    },
  })

  it('is refused if its products are wrong, or a row has other bits among others or by other threads', async () => {
    await prove(
      multiplier((sum) => sum),
      2,
    )
    await expect(
      prove(
        multiplier((sum) => sum + 1e-3),
        2,
      ),
    ).rejects.toThrow('wrong')
    const few = multiplier((sum, m) => (m < 3 ? sum * (1 + 2 ** -22) : sum))
    await expect(prove(few, 2)).rejects.toThrow('other bits')
    const many = multiplier((sum, _, threads) => (threads > 1 ? sum * (1 + 2 ** -22) : sum))
    await expect(prove(many, 2)).rejects.toThrow('other bits')
  })
})
