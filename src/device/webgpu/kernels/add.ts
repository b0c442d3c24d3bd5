// y += x in place over `count` elements, f32. One invocation per element.

import { defineKernel } from '../kernel.ts'

export const addKernel = defineKernel({
  name: 'add',
  bindings: { x: 'read f32', y: 'read_write f32' },
  params: { count: 'u32' },
  body: /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(global_invocation_id) g: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let i = g.y * (groups.x * 256u) + g.x;
  if (i < params.count) {
    y[i] += x[i];
  }
}
`,
})
