// The matmul of matmul-common.ts without workgroup memory: each invocation makes `rows` x 8 sums in
// registers, from four k of each line at a time. A workgroup is 16 invocations along the columns by
// `groups` along the rows. For GPUs whose caches do what workgroup memory would (Apple's), and for
// software adapters without subgroups.

import { defineKernel } from '../kernel.ts'
import { ADDEND_WGSL } from './addend.ts'
import { elementSpec, F32_ROWS, read4, type RowTypes, suffix } from './elements.ts'
import {
  blockWgsl,
  lines,
  MATMUL_PARAMS,
  matmulBindings,
  type MatmulSpec,
  storeWgsl,
} from './matmul-common.ts'

/** Columns of y that one workgroup makes. */
const COLS = 128

export const matmulRegisters = (
  rows: number,
  groups: number,
  types: RowTypes = F32_ROWS,
): MatmulSpec => ({
  rows: rows * groups,
  cols: COLS,
  multiple: 4,
  spec: defineKernel({
    name: `matmul registers ${rows}x8${suffix(types)}`,
    ...elementSpec(types, [ADDEND_WGSL, blockWgsl(rows * groups, COLS), storeWgsl(16, types.y)]),
    bindings: matmulBindings(4, types),
    params: MATMUL_PARAMS,
    body: /* wgsl */ `
@compute @workgroup_size(16, ${groups})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
) {
  let block = block_of(group, groups);
  let version = group.z;
  let row = block.y${groups > 1 ? ` + local.y * ${rows}u` : ''};
  let col = block.x + local.x;
  let depth = params.depth / 4u;
  // Lines beyond the edge repeat the last one and are not stored.
  let last = params.rows - 1u;
  let x_start = version * params.rows * depth;
${lines(rows, (r) => `  let x${r} = x_start + min(row + ${r}u, last) * depth;`)}
  let edge = params.cols - 1u;
  let start = (params.weights0 + version * params.version) / 4u;
${lines(8, (c) => `  let w${c} = start + min(col + ${16 * c}u, edge) * depth;`)}
${lines(rows, (r) => `  var left${r} = vec4<f32>();\n  var right${r} = vec4<f32>();`)}
  for (var k = 0u; k < depth; k++) {
    let l = transpose(mat4x4(w[w0 + k], w[w1 + k], w[w2 + k], w[w3 + k]));
    let r = transpose(mat4x4(w[w4 + k], w[w5 + k], w[w6 + k], w[w7 + k]));
    var a: vec4<f32>;
${lines(
  rows,
  (r) => `    a = ${read4(types.x, `x[x${r} + k]`)};
    left${r} += a.x * l[0]; left${r} += a.y * l[1]; left${r} += a.z * l[2]; left${r} += a.w * l[3];
    right${r} += a.x * r[0]; right${r} += a.y * r[1]; right${r} += a.z * r[2]; right${r} += a.w * r[3];`,
)}
  }
${lines(
  rows,
  (r) => `  store4(version, row + ${r}u, col, left${r});
  store4(version, row + ${r}u, col + 64u, right${r});`,
)}
}
`,
  }),
})
