// Every matmul kernel, run without the device around it: right against plain loops, in every type and by both
// ways of reading, and a row alike whatever the number of rows. The other kernels: webgpu-kernels.test.ts.
// Alone: npx vitest run test/device/webgpu-matmul.test.ts

import { describe, expect, it } from 'vitest'
import { Commands } from '../../src/device/webgpu/commands.ts'
import { NO_ADDEND } from '../../src/device/webgpu/addends.ts'
import { fromHalves, toHalves } from '../../src/device/f16.ts'
import { F32_ROWS, type RowTypes } from '../../src/device/webgpu/kernels/elements.ts'
import { blocksOf, FLAG, type MatmulSpec } from '../../src/device/webgpu/kernels/matmul-common.ts'
import { matmulRegisters } from '../../src/device/webgpu/kernels/matmul-registers.ts'
import { matmulShared } from '../../src/device/webgpu/kernels/matmul-shared.ts'
import {
  matmulSubgroup,
  matmulTransposedSubgroup,
} from '../../src/device/webgpu/kernels/matmul-subgroup.ts'
import { matmulTransposed } from '../../src/device/webgpu/kernels/matmul-transposed.ts'
import { lacking, type Feature } from '../helpers/adapter.ts'
import { adapter, commands, download, upload } from '../helpers/webgpu-buffers.ts'
import { ADAPTER, randoms } from '../helpers/webgpu.ts'

/** Whole tile, no addend. */
const PLAIN = { weights0: 0, first: 0, ...NO_ADDEND }

describe('kernels of products', () => {
  /** Every matmul of any candidate list, those by subgroups or the others. */
  const matmuls = (types: RowTypes, bySubgroups: boolean) => {
    const { lanes } = adapter
    const shapes = [8, 16].map((rows) => ({ lanes, rows, types }))
    if (bySubgroups) {
      return { plain: shapes.map(matmulSubgroup), transposed: shapes.map(matmulTransposedSubgroup) }
    }
    return {
      plain: [
        ...[4, 8].map((rows) => matmulShared(rows, types)),
        ...[matmulRegisters(8, 1, types), matmulRegisters(4, 8, types)],
      ],
      transposed: [matmulTransposed(types)],
    }
  }

  const products = [
    ['plain', F32_ROWS],
    ['transposed', F32_ROWS],
    ['plain', { x: 'f16', y: 'f16' }],
    ['plain', { x: 'f16', y: 'f32' }],
    ['transposed', { x: 'f16', y: 'f16' }],
  ] as const
  it.for(
    products.flatMap(
      (each) =>
        [
          [...each, 'invocations'],
          [...each, 'subgroups'],
        ] as const,
    ),
  )(
    'multiply %s weights right, rows %j, by %s, and a row alike whatever the number of rows',
    async ([kind, types, by], { skip }) => {
      const needed: (Feature | null)[] = [
        types.x === 'f16' ? 'shader-f16' : null,
        by === 'subgroups' ? by : null,
      ]
      for (const feature of needed) {
        const reason = feature && (await lacking(feature, ADAPTER))
        if (reason) skip(reason)
      }
      const all = 70
      // Odd sizes for the kernels that take them; for the others, none is a multiple of a block.
      for (const [depth, cols, width, col0, multiple] of [
        [77, 131, 140, 5, 1],
        [76, 132, 140, 8, 4],
      ] as const) {
        const given = operands(all, depth, cols, width)
        if (types.x === 'f16') given.x = fromHalves(toHalves(given.x))
        for (const matmul of matmuls(types, by === 'subgroups')[kind].filter(
          (each) => multiple % each.multiple === 0,
        )) {
          const { name } = matmul.spec
          const multiply = (rows: number, on?: Commands) =>
            multiplied(
              matmul,
              { ...given, rows, depth, cols, width, col0 },
              kind === 'transposed',
              types,
              on,
            )
          const full = await multiply(all)
          // As many workgroups in a square, where all do not fit one dimension.
          const side = Math.ceil(Math.sqrt(blocksOf(matmul, all, cols)))
          const square = await multiply(all, new Commands(adapter.gpu, side))
          expect(firstDifference(bitsOf(square), bitsOf(full)), name).toBe(-1)
          const columns = kind === 'transposed' ? cols : width
          const from = kind === 'transposed' ? 0 : col0
          const inX = kind === 'transposed' ? { stride: width, k0: col0 } : { stride: depth, k0: 0 }
          for (let i = 0; i < 300; i++) {
            const [p, r, n] = [i % 2, (i * 7) % all, (i * 13) % cols]
            let sum = given.bias[p * columns + from + n]!
            for (let k = 0; k < depth; k++) {
              const at = kind === 'transposed' ? k * cols + n : n * depth + k
              sum += given.x[r * inX.stride + inX.k0 + k]! * given.w[p * cols * depth + at]!
            }
            const got = full[(p * all + r) * columns + from + n]!
            const rounding = types.y === 'f16' ? Math.abs(sum) * 2 ** -11 : 0
            expect(Math.abs(got - sum), name).toBeLessThan(1e-5 + rounding)
          }
          for (const rows of [1, 9, 65]) {
            const part = await multiply(rows)
            for (let p = 0; p < 2; p++) {
              const want = full.subarray(p * all * columns, (p * all + rows) * columns)
              const found = part.subarray(p * rows * columns, (p + 1) * rows * columns)
              expect(firstDifference(bitsOf(found), bitsOf(want)), name).toBe(-1)
            }
          }
        }
      }
    },
  )

  const operands = (all: number, depth: number, cols: number, width: number) => ({
    w: randoms(2 * cols * depth, 1),
    bias: randoms(2 * Math.max(width, cols), 2),
    x: randoms(all * Math.max(width, depth), 3),
  })

  interface Product extends ReturnType<typeof operands> {
    readonly rows: number
    readonly depth: number
    readonly cols: number
    readonly width: number
    readonly col0: number
  }

  /** y of two probes, each with weights of its own and the same x. */
  const multiplied = async (
    matmul: MatmulSpec,
    size: Product,
    transposed: boolean,
    types: RowTypes,
    on = commands,
  ) => {
    const { x, w, bias, ...params } = size
    const { rows, depth, cols, width } = params
    const [inX, inY] = transposed ? [width, cols] : [depth, width]
    const input = new Float32Array(2 * rows * inX)
    for (let p = 0; p < 2; p++) input.set(x.subarray(0, rows * inX), p * rows * inX)
    const y = upload(new (types.y === 'f16' ? Uint16Array : Float32Array)(2 * rows * inY))
    const nothing = upload(new Float32Array(4))
    on.run(
      on.compile(matmul.spec),
      {
        x: upload(types.x === 'f16' ? toHalves(input) : input),
        w: upload(w),
        bias: upload(bias),
        projection: nothing,
        factors: nothing,
        y,
      },
      { ...params, probe_rows: rows, version: cols * depth, flags: FLAG.bias, ...PLAIN },
      [...on.flat(blocksOf(matmul, rows, cols)), 2],
    )
    on.flush()
    const found = await download(y)
    return types.y === 'f16' ? fromHalves(new Uint16Array(found)) : new Float32Array(found)
  }
})

const bitsOf = (values: Float32Array<ArrayBuffer>) => new Uint32Array(values.slice().buffer)

/** Index of the first differing word, -1 if there is none. */
function firstDifference(
  got: Uint32Array,
  want: Uint32Array,
  same: (bits: number) => boolean = () => false,
): number {
  if (got.length !== want.length) return 0
  return got.findIndex((bits, i) => bits !== want[i] && !(same(bits) && same(want[i]!)))
}
