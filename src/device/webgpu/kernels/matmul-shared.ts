// The matmul of matmul-common.ts through workgroup memory: a workgroup of 16 x 16 invocations makes a block
// of y with `rows` x 4 sums each, and passes K through workgroup memory 16 columns at a time. Takes
// any K; what discrete GPUs like, and what every adapter falls back to.

import { defineKernel } from '../kernel.ts'
import { ADDEND_WGSL } from './addend.ts'
import { elementSpec, F32_ROWS, read, type RowTypes, suffix } from './elements.ts'
import {
  blockWgsl,
  lines,
  MATMUL_PARAMS,
  matmulBindings,
  type MatmulSpec,
  storeWgsl,
} from './matmul-common.ts'

/** Columns of y that one workgroup makes. */
const COLS = 64

/** `rows`: sums of one invocation along the rows, 4 or 8. */
export const matmulShared = (rows: number, types: RowTypes = F32_ROWS): MatmulSpec => ({
  rows: 16 * rows,
  cols: COLS,
  multiple: 1,
  spec: defineKernel({
    name: `matmul shared ${rows}x4${suffix(types)}`,
    ...elementSpec(types, [ADDEND_WGSL, blockWgsl(16 * rows, COLS), storeWgsl(16, types.y)]),
    bindings: matmulBindings(1, types),
    params: MATMUL_PARAMS,
    constants: { STEP: 16, X_STRIDE: 16 * rows + 1, W_STRIDE: 65 },
    body: /* wgsl */ `
// Transposed: [k][row] and [k][column]; the odd stride spreads the stores over the banks.
var<workgroup> xs: array<f32, STEP * X_STRIDE>;
var<workgroup> ws: array<f32, STEP * W_STRIDE>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let block = block_of(group, groups);
  let version = group.z;
  let row0 = block.y;
  let col0 = block.x;
  let x0 = version * params.rows * params.depth;
  let w0 = params.weights0 + version * params.version;
  let ty = lane / 16u;
  let tx = lane % 16u;
${lines(rows, (r) => `  var sums${r} = vec4<f32>();`)}
  for (var k0 = 0u; k0 < params.depth; k0 += STEP) {
    let k = k0 + tx;
    for (var i = 0u; i < ${rows}u; i++) {
      let line = ty + 16u * i;
      var xv = 0f;
      if (k < params.depth && row0 + line < params.rows) {
        xv = ${read(types.x, 'x[x0 + (row0 + line) * params.depth + k]')};
      }
      xs[tx * X_STRIDE + line] = xv;
    }
    for (var i = 0u; i < 4u; i++) {
      let line = ty + 16u * i;
      var wv = 0f;
      if (k < params.depth && col0 + line < params.cols) {
        wv = w[w0 + (col0 + line) * params.depth + k];
      }
      ws[tx * W_STRIDE + line] = wv;
    }
    workgroupBarrier();
    // Always whole steps, which compilers unroll: beyond K both factors are zero.
    for (var k = 0u; k < STEP; k++) {
      let at = k * W_STRIDE + tx;
      let b = vec4(ws[at], ws[at + 16u], ws[at + 32u], ws[at + 48u]);
      let from_row = k * X_STRIDE + ty;
${lines(rows, (r) => `      sums${r} += xs[from_row + ${16 * r}u] * b;`)}
    }
    workgroupBarrier();
  }
${lines(rows, (r) => `  store4(version, row0 + ty + ${16 * r}u, col0 + tx, sums${r});`)}
}
`,
  }),
})
