// The matmul of matmul-common.ts for transposed weights, of any shape: lanes lie along the columns, so that
// loads of w are contiguous; an invocation makes 8 rows of 4 columns, 64 apart, a workgroup 8 x 256.

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

/** Rows and columns of y that one workgroup makes. */
const [ROWS, COLS] = [8, 256]

export const matmulTransposed = (types: RowTypes = F32_ROWS): MatmulSpec => ({
  rows: ROWS,
  cols: COLS,
  multiple: 1,
  spec: defineKernel({
    name: `matmul transposed${suffix(types)}`,
    ...elementSpec(types, [ADDEND_WGSL, blockWgsl(ROWS, COLS), storeWgsl(64, types.y, true)]),
    bindings: matmulBindings(1, types),
    params: MATMUL_PARAMS,
    body: /* wgsl */ `
@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
) {
  let block = block_of(group, groups);
  let version = group.z;
  let row = block.y;
  let col = block.x + local.x;
  // Lines beyond the edge repeat the last one and are not stored.
  let last = params.rows - 1u;
  let x_start = version * params.rows * params.width + params.col0;
${lines(ROWS, (r) => `  let x${r} = x_start + min(row + ${r}u, last) * params.width;`)}
  let start = params.weights0 + version * params.version;
  let edge = vec4(params.cols - 1u);
  var at = start + min(vec4(col, col + 64u, col + 128u, col + 192u), edge);
${lines(ROWS, (r) => `  var sums${r} = vec4<f32>();`)}
  for (var k = 0u; k < params.depth; k++) {
    let b = vec4(w[at.x], w[at.y], w[at.z], w[at.w]);
${lines(ROWS, (r) => `    sums${r} += ${read(types.x, `x[x${r} + k]`)} * b;`)}
    at += params.cols;
  }
${lines(ROWS, (r) => `  store4(version, row + ${r}u, col, sums${r});`)}
}
`,
  }),
})
