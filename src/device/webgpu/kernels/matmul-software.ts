// The matmul of matmul.ts for software Vulkan, where workgroup memory never pays: the lanes lie
// along the columns, each makes 8 rows x 8 columns (16 columns apart) in registers, and row
// addresses come from workgroup_id alone, so that a load of x is one scalar load for all lanes. A
// workgroup of 16 invocations makes an 8 x 128 block. Sums run over k in order.

import { defineKernel } from '../kernel.ts'
import { ADDEND_WGSL } from './addend.ts'
import { MATMUL_INTERFACE, STORE_WGSL } from './matmul.ts'

/** Rows and columns of y that one workgroup makes. */
export const SOFTWARE_BLOCK = { rows: 8, cols: 128 } as const

export const matmulSoftwareKernel = defineKernel({
  name: 'matmul software',
  ...MATMUL_INTERFACE,
  snippets: [ADDEND_WGSL, STORE_WGSL],
  body: /* wgsl */ `
fn store(version: u32, row: u32, col: u32, left: vec4<f32>, right: vec4<f32>) {
  store4(version, row, col, left);
  store4(version, row, col + 64u, right);
}

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let version = group.z;
  let row = group.y * 8u;
  let col = group.x * 128u + local.x;
  // Lines beyond the edge repeat the last one and are not stored.
  let last = params.rows - 1u;
  let x0 = version * params.rows * params.depth;
  let xa = x0 + min(vec4(row, row + 1u, row + 2u, row + 3u), vec4(last)) * params.depth;
  let xb = x0 + min(vec4(row + 4u, row + 5u, row + 6u, row + 7u), vec4(last)) * params.depth;
  let edge = vec4(params.cols - 1u);
  let w0 = params.weights0 + version * params.version;
  let wa = w0 + min(vec4(col, col + 16u, col + 32u, col + 48u), edge) * params.depth;
  let wb = w0 + min(vec4(col + 64u, col + 80u, col + 96u, col + 112u), edge) * params.depth;
  var l0 = vec4<f32>(); var l1 = vec4<f32>(); var l2 = vec4<f32>(); var l3 = vec4<f32>();
  var l4 = vec4<f32>(); var l5 = vec4<f32>(); var l6 = vec4<f32>(); var l7 = vec4<f32>();
  var r0 = vec4<f32>(); var r1 = vec4<f32>(); var r2 = vec4<f32>(); var r3 = vec4<f32>();
  var r4 = vec4<f32>(); var r5 = vec4<f32>(); var r6 = vec4<f32>(); var r7 = vec4<f32>();
  for (var k = 0u; k < params.depth; k++) {
    let bl = vec4(w[wa.x + k], w[wa.y + k], w[wa.z + k], w[wa.w + k]);
    let br = vec4(w[wb.x + k], w[wb.y + k], w[wb.z + k], w[wb.w + k]);
    let a0 = x[xa.x + k]; l0 += a0 * bl; r0 += a0 * br;
    let a1 = x[xa.y + k]; l1 += a1 * bl; r1 += a1 * br;
    let a2 = x[xa.z + k]; l2 += a2 * bl; r2 += a2 * br;
    let a3 = x[xa.w + k]; l3 += a3 * bl; r3 += a3 * br;
    let a4 = x[xb.x + k]; l4 += a4 * bl; r4 += a4 * br;
    let a5 = x[xb.y + k]; l5 += a5 * bl; r5 += a5 * br;
    let a6 = x[xb.z + k]; l6 += a6 * bl; r6 += a6 * br;
    let a7 = x[xb.w + k]; l7 += a7 * bl; r7 += a7 * br;
  }
  store(version, row, col, l0, r0);
  store(version, row + 1u, col, l1, r1);
  store(version, row + 2u, col, l2, r2);
  store(version, row + 3u, col, l3, r3);
  store(version, row + 4u, col, l4, r4);
  store(version, row + 5u, col, l5, r5);
  store(version, row + 6u, col, l6, r6);
  store(version, row + 7u, col, l7, r7);
}
`,
})
