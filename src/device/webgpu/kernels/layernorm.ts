// y = (x - mean) / sqrt(var + eps) * scale[p] + bias[p] over the columns of each row; the biased
// variance is taken in a second pass, about the mean. x, y [P*rows, cols]; scale, bias [>=P, cols] f32.
// Equals torch.nn.functional.layer_norm. One workgroup makes one row.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, read, stored, suffix } from './elements.ts'
import { REDUCE_WGSL } from './reduce.ts'

export const layerNormKernel = (type: Element) =>
  defineKernel({
    name: `layerNorm${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }, [REDUCE_WGSL]),
    bindings: { x: `read ${type}`, scale: 'read f32', bias: 'read f32', y: `read_write ${type}` },
    params: {
      rows: 'u32', // of one probe
      total: 'u32', // of all probes
      cols: 'u32',
      eps: 'f32',
      has_scale: 'u32',
      has_bias: 'u32',
    },
    body: /* wgsl */ `
@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= params.total) {
    return;
  }
  let start = row * params.cols;
  var part = 0f;
  for (var c = lane; c < params.cols; c += 64u) {
    part += ${read(type, 'x[start + c]')};
  }
  let mean = sum_lanes(part, lane) / f32(params.cols);
  part = 0f;
  for (var c = lane; c < params.cols; c += 64u) {
    let d = ${read(type, 'x[start + c]')} - mean;
    part += d * d;
  }
  let deviation = sqrt(sum_lanes(part, lane) / f32(params.cols) + params.eps);
  let affine = (row / params.rows) * params.cols;
  for (var c = lane; c < params.cols; c += 64u) {
    var v = (${read(type, 'x[start + c]')} - mean) / deviation;
    if (params.has_scale == 1u) {
      v *= scale[affine + c];
    }
    if (params.has_bias == 1u) {
      v += bias[affine + c];
    }
    y[start + c] = ${stored(type, 'v')};
  }
}
`,
  })
