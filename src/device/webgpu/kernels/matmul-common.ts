// What all matmul kernels share: bindings, parameters, flags, and the epilogue that ends every sum.
//   y[p, r, n] = sum_k x[p, r, k] * w[p, n, k] + bias[p, n] + addend   (then relu)
// for one compute tile. Shapes: x [P*rows, K], w [versions, N, K], bias [>=P, width], y
// [P*rows, width] from column col0, all f32 but x and y, which may be f16; the addend's factors are in
// addend.ts. Equals torch.nn.functional.linear per probe.

// A tile of a matrix whose file is transposed (GPT-2's Conv1D, [K, N]) is a range of K: w is
// [versions, K, N], x has `width` columns of which the tile takes those from col0, y and bias have
// `cols` columns. Tiles add up in order, by FLAG.accumulate.
//
// A kernel makes each sum over k in order, whatever its place in a block, so that a row's bits
// depend neither on how many rows there are nor on how a matrix is cut into slabs.

import type { Binding, KernelSpec, Params } from '../kernel.ts'
import { type Element, read, type RowTypes, stored } from './elements.ts'

export const MATMUL_PARAMS = {
  rows: 'u32', // that share a version: of one probe, or of all if there is only one version
  probe_rows: 'u32', // of one probe
  cols: 'u32', // N
  depth: 'u32', // K of the tile
  version: 'u32', // elements from one version of w to the next, 0 if there is only one
  width: 'u32', // columns of y and bias; of x if transposed
  col0: 'u32',
  flags: 'u32', // FLAG: what the sums go through
  weights0: 'u32', // first element in w
  first: 'u32', // row of the matrix that column 0 of the tile is
  left0: 'u32', // addend: where its left factor begins in factors
  count: 'u32', // products to sum for each element of y; 0 without an addend
  n1: 'u32',
  m2: 'u32',
  m1: 'u32', // rows of the left factor from one probe to the next; 0 if probes share it
  region: 'u32', // elements of the projection from one term to the next
} as const satisfies Params

/** Bindings with x and w taken one by one or by fours; that is for a K (and N) that four divides. */
export const matmulBindings = (by: 1 | 4, { x, y }: RowTypes) =>
  ({
    x: by === 4 ? (`read vec4<${x}>` as const) : (`read ${x}` as const),
    w: by === 4 ? 'read vec4<f32>' : 'read f32',
    bias: 'read f32',
    projection: 'read f32',
    factors: 'read f32',
    y: `read_write ${y}`,
  }) as const

export type MatmulBindings = Readonly<Record<keyof ReturnType<typeof matmulBindings>, Binding>>

/** Bits of the parameter `flags`. */
export const FLAG = { bias: 1, relu: 2, accumulate: 4 } as const

/** A matmul kernel and how it cuts its work. */
export interface MatmulSpec {
  readonly spec: KernelSpec<MatmulBindings, typeof MATMUL_PARAMS>
  /** Rows and columns of y that one workgroup makes. */
  readonly rows: number
  readonly cols: number
  /** What must divide depth, weights0 and version; of a transposed one also cols, width and col0. */
  readonly multiple: 1 | 4
}

/** Workgroups that make y [yRows, yCols] of one version: a flat range, which `block_of` takes apart. */
export const blocksOf = (
  { rows, cols }: Pick<MatmulSpec, 'rows' | 'cols'>,
  yRows: number,
  yCols: number,
) => Math.ceil(yRows / rows) * Math.ceil(yCols / cols)

/** `block_of` gives a workgroup's first column and row in y; the last ones may lie below y's end. */
export const blockWgsl = (rows: number, cols: number) => /* wgsl */ `
fn block_of(group: vec3<u32>, groups: vec3<u32>) -> vec2<u32> {
  let block = group.y * groups.x + group.x;
  let wide = (params.cols + ${cols - 1}u) / ${cols}u;
  return vec2(block % wide * ${cols}u, block / wide * ${rows}u);
}
`

/** `store4` ends four sums of a row: columns `col` and on, `spread` apart. */
export const storeWgsl = (spread: number, y: Element, transposed = false) => /* wgsl */ `
fn store4(version: u32, row: u32, col: u32, sums: vec4<f32>) {
  if (row >= params.rows) {
    return;
  }
  let line = version * params.rows + row;
  let probe = line / params.probe_rows;
  let width = params.${transposed ? 'cols' : 'width'};
  for (var j = 0u; j < 4u; j++) {
    let n = col + ${spread}u * j;
    if (n < params.cols) {
      let column = ${transposed ? 'n' : 'params.col0 + n'};
      let at = line * width + column;
      var sum = sums[j];
      if ((params.flags & ${FLAG.bias}u) != 0u) {
        sum += bias[probe * width + column];
      }
      if ((params.flags & ${FLAG.accumulate}u) != 0u) {
        sum += ${read(y, 'y[at]')};
      }
      sum += addend(probe, line, n);
      if ((params.flags & ${FLAG.relu}u) != 0u) {
        sum = select(sum, 0f, sum < 0f); // max() may drop a NaN
      }
      y[at] = ${stored(y, 'sum')};
    }
  }
}
`

/** WGSL lines, one for each i below n. */
export const lines = (n: number, line: (i: number) => string) =>
  Array.from({ length: n }, (_, i) => line(i)).join('\n')
