// Reductions over the 64 invocations of a workgroup through workgroup memory, in a fixed order.
// Must be called in uniform control flow.

export const REDUCE_WGSL = /* wgsl */ `
var<workgroup> lanes: array<f32, 64>;

fn sum_lanes(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  lanes[lane] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half >>= 1u) {
    if (lane < half) {
      lanes[lane] += lanes[lane + half];
    }
    workgroupBarrier();
  }
  return lanes[0];
}

// A NaN loses every comparison here; callers let it through their sums.
fn max_lanes(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  lanes[lane] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half >>= 1u) {
    if (lane < half && lanes[lane + half] > lanes[lane]) {
      lanes[lane] = lanes[lane + half];
    }
    workgroupBarrier();
  }
  return lanes[0];
}
`
