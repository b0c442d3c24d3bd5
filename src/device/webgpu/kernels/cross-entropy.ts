// Folds one tile of logits into the online log-sum-exp of each row: state [rows, 2 + n] holds (max, sum
// of exp(logit - max), logit of each of n targets). logits [rows, cols] are vocabulary entries [first,
// first + cols), targets is [rows, n]; f32. After the last tile, log(sum) + max - target is
// torch.nn.functional.cross_entropy. One workgroup makes one row.

import { defineKernel } from '../kernel.ts'
import { REDUCE_WGSL } from './reduce.ts'

export const crossEntropyKernel = defineKernel({
  name: 'crossEntropy',
  bindings: { logits: 'read f32', targets: 'read u32', state: 'read_write f32' },
  params: { rows: 'u32', cols: 'u32', first: 'u32', n: 'u32' },
  snippets: [REDUCE_WGSL],
  body: /* wgsl */ `
@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) {
    return;
  }
  let start = row * params.cols;
  let at = row * (2u + params.n);
  let old_max = state[at];
  let old_sum = state[at + 1u];
  var largest = -3.4028234e38f;
  for (var c = lane; c < params.cols; c += 64u) {
    largest = select(largest, logits[start + c], logits[start + c] > largest);
  }
  largest = max_lanes(largest, lane);
  largest = select(largest, old_max, old_max > largest);
  var part = 0f;
  for (var c = lane; c < params.cols; c += 64u) {
    part += exp(logits[start + c] - largest);
  }
  let sum = sum_lanes(part, lane);
  if (lane == 0u) {
    // The first tile meets (-inf, 0): nothing to carry over.
    let carried = select(old_sum * exp(old_max - largest), 0f, old_sum == 0f);
    state[at] = largest;
    state[at + 1u] = carried + sum;
  }
  for (var t = lane; t < params.n; t += 64u) {
    let target_id = targets[row * params.n + t];
    let column = target_id - params.first;
    if (target_id >= params.first && column < params.cols) {
      state[at + 2u + t] = logits[start + column];
    }
  }
}
`,
})
