// y[p, r, n] = start + sum_k x[p, r, k0 + k] * w[p, k, n] for a tile whose file is transposed (GPT-2's
// Conv1D, [K, N]): start is the bias for the first tile of a matrix and y itself for the others, so
// that tiles of K add up in order. x [P*rows, width_x], w [versions, K, N], bias [>=P, N], y
// [P*rows, N], f32; the addend comes with the last tile. Lanes lie along the columns, so that loads
// of w are contiguous; an invocation makes 8 rows of one column, a workgroup 8 x 64.

import { defineKernel } from '../kernel.ts'
import { ADDEND_WGSL } from './addend.ts'

/** Bits of the parameter `flags`. */
export const TRANSPOSED_FLAG = { bias: 1, accumulate: 2 } as const

/** Rows and columns of y that one workgroup makes. */
export const TRANSPOSED_BLOCK = { rows: 8, cols: 64 } as const

export const matmulTransposedKernel = defineKernel({
  name: 'matmul transposed',
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
    depth: 'u32', // K of the tile
    version: 'u32', // elements from one version of w to the next, 0 if there is only one
    width_x: 'u32',
    k0: 'u32',
    flags: 'u32', // TRANSPOSED_FLAG: what the sums start from
    weights0: 'u32', // first element in w
    first: 'u32', // always 0: a tile has all columns
    left0: 'u32', // the addend's parameters: see matmul.ts
    count: 'u32',
    n1: 'u32',
    m2: 'u32',
    m1: 'u32',
    region: 'u32',
  },
  snippets: [ADDEND_WGSL],
  body: /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let version = group.z;
  let row0 = group.y * 8u;
  let n = group.x * 64u + local.x;
  if (n >= params.cols) {
    return;
  }
  // Rows beyond the edge repeat the last one and are not stored.
  let last = params.rows - 1u;
  let x0 = version * params.rows * params.width_x + params.k0;
  let low = vec4(row0, row0 + 1u, row0 + 2u, row0 + 3u);
  let xa = x0 + min(low, vec4(last)) * params.width_x;
  let xb = x0 + min(low + 4u, vec4(last)) * params.width_x;
  var a = vec4<f32>();
  var b = vec4<f32>();
  var at = params.weights0 + version * params.version + n;
  for (var k = 0u; k < params.depth; k++) {
    let v = w[at];
    a += v * vec4(x[xa.x + k], x[xa.y + k], x[xa.z + k], x[xa.w + k]);
    b += v * vec4(x[xb.x + k], x[xb.y + k], x[xb.z + k], x[xb.w + k]);
    at += params.cols;
  }
  for (var i = 0u; i < 8u; i++) {
    let row = row0 + i;
    if (row < params.rows) {
      let line = version * params.rows + row;
      let probe = line / params.probe_rows;
      let to = line * params.cols + n;
      var sum = 0f;
      if ((params.flags & ${TRANSPOSED_FLAG.bias}u) != 0u) {
        sum = bias[probe * params.cols + n];
      }
      if ((params.flags & ${TRANSPOSED_FLAG.accumulate}u) != 0u) {
        sum += y[to];
      }
      sum += select(b[i % 4u], a[i % 4u], i < 4u);
      y[to] = sum + addend(probe, line, n);
    }
  }
}
`,
})
