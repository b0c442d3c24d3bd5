// y = x / sqrt(mean of x^2 + eps) * (scale[p] + offset) over each group of `cols` columns: a row, or a head of it.
// x, y [P*rows*groups, cols]; scale [>=P, cols] f32. Equals LlamaRMSNorm, with offset 1 GemmaRMSNorm
// of Hugging Face in f32. One workgroup makes one group.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, read, stored, suffix } from './elements.ts'
import { REDUCE_WGSL } from './reduce.ts'

export const rmsNormKernel = (type: Element) =>
  defineKernel({
    name: `rmsNorm${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }, [REDUCE_WGSL]),
    bindings: { x: `read ${type}`, scale: 'read f32', y: `read_write ${type}` },
    params: {
      groups: 'u32', // of one probe
      total: 'u32', // of all probes
      cols: 'u32',
      eps: 'f32',
      offset: 'f32',
    },
    body: /* wgsl */ `
@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) all: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let id = group.y * all.x + group.x;
  if (id >= params.total) {
    return;
  }
  let start = id * params.cols;
  var part = 0f;
  for (var c = lane; c < params.cols; c += 64u) {
    let v = ${read(type, 'x[start + c]')};
    part += v * v;
  }
  let size = sqrt(sum_lanes(part, lane) / f32(params.cols) + params.eps);
  let own = (id / params.groups) * params.cols;
  for (var c = lane; c < params.cols; c += 64u) {
    let v = ${read(type, 'x[start + c]')} / size * (scale[own + c] + params.offset);
    y[start + c] = ${stored(type, 'v')};
  }
}
`,
  })
