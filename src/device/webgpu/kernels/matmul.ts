// y[p, r, n] = sum_k x[p, r, k] * w[p, n, k] + bias[p, n] + addend: one compute tile of a linear
// layer, for GPUs. Shapes: x [P*rows, K], w [versions, N, K], bias [>=P, width], y [P*rows, width]
// from column col0, all f32; the addend's factors are in addend.ts. Equals
// torch.nn.functional.linear per probe. A workgroup makes a 64 x 64 block of y with 16 x 16
// invocations of 4 x 4 sums each, and passes K through workgroup memory 16 columns at a time. Every
// sum runs over k in order, whatever its place in a block, so that a row's bits do not depend on how
// many rows there are.

import { defineKernel } from '../kernel.ts'
import { ADDEND_WGSL } from './addend.ts'

/** Bindings and parameters shared by both matmul kernels. */
export const MATMUL_INTERFACE = {
  bindings: {
    x: 'read f32',
    w: 'read f32',
    bias: 'read f32',
    projection: 'read f32',
    factors: 'read f32',
    y: 'read_write f32',
  },
  params: {
    rows: 'u32', // that share a version: of one probe, or of all if there is only one version
    probe_rows: 'u32', // of one probe
    cols: 'u32', // N
    depth: 'u32', // K
    version: 'u32', // elements from one version of w to the next, 0 if there is only one
    width: 'u32', // columns of y and bias
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
  },
} as const

/** Bits of the parameter `flags`. */
export const FLAG = { bias: 1, relu: 2 } as const

/** Stores the sums of four columns of a row, 16 apart; what both matmul kernels end with. */
export const STORE_WGSL = /* wgsl */ `
fn store4(version: u32, row: u32, col: u32, sums: vec4<f32>) {
  if (row >= params.rows) {
    return;
  }
  let line = version * params.rows + row;
  let probe = line / params.probe_rows;
  for (var j = 0u; j < 4u; j++) {
    let n = col + 16u * j;
    if (n < params.cols) {
      var sum = sums[j];
      if ((params.flags & ${FLAG.bias}u) != 0u) {
        sum += bias[probe * params.width + params.col0 + n];
      }
      sum += addend(probe, line, n);
      if ((params.flags & ${FLAG.relu}u) != 0u) {
        sum = select(sum, 0f, sum < 0f); // max() may drop a NaN
      }
      y[line * params.width + params.col0 + n] = sum;
    }
  }
}
`

/** Rows and columns of y that one workgroup makes. */
export const MATMUL_BLOCK = { rows: 64, cols: 64 } as const

export const matmulKernel = defineKernel({
  name: 'matmul',
  ...MATMUL_INTERFACE,
  constants: { STEP: 16, STRIDE: 65 },
  snippets: [ADDEND_WGSL, STORE_WGSL],
  body: /* wgsl */ `
// Transposed: [k][row] and [k][column]; the odd stride spreads the stores over the banks.
var<workgroup> xs: array<f32, STEP * STRIDE>;
var<workgroup> ws: array<f32, STEP * STRIDE>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let version = group.z;
  let row0 = group.y * 64u;
  let col0 = group.x * 64u;
  let x0 = version * params.rows * params.depth;
  let w0 = params.weights0 + version * params.version;
  let ty = lane / 16u;
  let tx = lane % 16u;
  var sums0 = vec4<f32>();
  var sums1 = vec4<f32>();
  var sums2 = vec4<f32>();
  var sums3 = vec4<f32>();
  for (var k0 = 0u; k0 < params.depth; k0 += STEP) {
    for (var i = 0u; i < 4u; i++) {
      let line = ty + 16u * i;
      let k = k0 + tx;
      var xv = 0f;
      var wv = 0f;
      if (k < params.depth && row0 + line < params.rows) {
        xv = x[x0 + (row0 + line) * params.depth + k];
      }
      if (k < params.depth && col0 + line < params.cols) {
        wv = w[w0 + (col0 + line) * params.depth + k];
      }
      xs[tx * STRIDE + line] = xv;
      ws[tx * STRIDE + line] = wv;
    }
    workgroupBarrier();
    // Always whole steps, which compilers unroll: beyond K both factors are zero.
    for (var k = 0u; k < STEP; k++) {
      let at = k * STRIDE + tx;
      let b = vec4(ws[at], ws[at + 16u], ws[at + 32u], ws[at + 48u]);
      let from_row = k * STRIDE + ty;
      sums0 += xs[from_row] * b;
      sums1 += xs[from_row + 16u] * b;
      sums2 += xs[from_row + 32u] * b;
      sums3 += xs[from_row + 48u] * b;
    }
    workgroupBarrier();
  }
  store4(version, row0 + ty, col0 + tx, sums0);
  store4(version, row0 + ty + 16u, col0 + tx, sums1);
  store4(version, row0 + ty + 32u, col0 + tx, sums2);
  store4(version, row0 + ty + 48u, col0 + tx, sums3);
}
`,
})
