// y += x in place over `count` elements. One invocation per element.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, suffix } from './elements.ts'

export const addKernel = (type: Element) =>
  defineKernel({
    name: `add${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }),
    bindings: { x: `read ${type}`, y: `read_write ${type}` },
    params: { count: 'u32' },
    body: /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(global_invocation_id) g: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let i = g.y * (groups.x * 256u) + g.x;
  if (i < params.count) {
    ${type === 'f32' ? 'y[i] += x[i]' : 'y[i] = half(f32(y[i]) + f32(x[i]))'};
  }
}
`,
  })
