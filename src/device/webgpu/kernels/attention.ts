// y = softmax(q * D^-0.5 * k^T, causal and without padded keys) * v for every sequence and head;
// the softmax is online (Milakov and Gimelshein, arXiv 1805.02867), so no T x S matrix exists. q,
// y [P*B*T, H*D], k, v [P*B*S, H*D], key_mask [B, S]; the T queries are the last of S
// positions. Equals scaled_dot_product_attention with that mask. One invocation makes one query row
// of one head, a workgroup 32 consecutive rows: all its lanes read the same key at the same time.
// Keys come in order, so that a row's bits do not depend on T (with a cache or without). A row
// that sees no key gets the mean of all S values of its sequence.

import { type Binding, defineKernel, type KernelSpec, type Params } from '../kernel.ts'
import { type Element, elementSpec, read, stored, suffix } from './elements.ts'

/** Largest head size: q and the sums of a row live in registers (beyond 128 GPUs spill some). */
export const MAX_HEAD_SIZE = 256

/** Query rows of one workgroup. */
export const ATTENTION_ROWS = 32

export const ATTENTION_PARAMS = {
  batch: 'u32',
  tokens: 'u32',
  keys: 'u32', // S
  heads: 'u32',
  sequences: 'u32',
  scale: 'f32',
} as const satisfies Params

export type AttentionSpec = KernelSpec<
  Readonly<Record<'q' | 'k' | 'v' | 'key_mask' | 'y', Binding>>,
  typeof ATTENTION_PARAMS
>

export const attentionKernel = (headSize: number, type: Element = 'f32'): AttentionSpec =>
  defineKernel({
    name: `attention ${headSize}${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }),
    bindings: {
      q: `read ${type}`,
      k: `read ${type}`,
      v: `read ${type}`,
      key_mask: 'read f32',
      y: `read_write ${type}`,
    },
    params: ATTENTION_PARAMS,
    constants: { D: headSize, ROWS: ATTENTION_ROWS },
    body: /* wgsl */ `
@compute @workgroup_size(ROWS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let id = group.y * groups.x + group.x;
  let each = (params.tokens + ROWS - 1u) / ROWS * params.heads; // workgroups of a sequence
  let sequence = id / each;
  if (sequence >= params.sequences) {
    return;
  }
  let block = id % each / params.heads;
  let head = id % params.heads;
  let width = params.heads * D;
  let token = block * ROWS + lane;
  let earlier = params.keys - params.tokens; // keys before the first query's own
  let start = sequence * params.keys * width + head * D;
  let mask0 = (sequence % params.batch) * params.keys;
  let row = (sequence * params.tokens + min(token, params.tokens - 1u)) * width + head * D;
  var query: array<f32, D>;
  var sums: array<f32, D>;
  for (var d = 0u; d < D; d++) {
    query[d] = ${read(type, 'q[row + d]')} * params.scale;
    sums[d] = 0f;
  }
  var largest = -3e38f;
  var total = 0f;
  let keys = min(earlier + block * ROWS + ROWS, params.keys);
  for (var j = 0u; j < keys; j++) {
    if (key_mask[mask0 + j] == 0f) {
      continue;
    }
    let key = start + j * width;
    var score = 0f;
    for (var d = 0u; d < D; d++) {
      score += query[d] * ${read(type, 'k[key + d]')};
    }
    let visible = j <= earlier + token;
    let next = select(largest, score, visible && score > largest);
    let shrink = exp(largest - next);
    let weight = select(0f, exp(score - next), visible);
    total = total * shrink + weight;
    for (var d = 0u; d < D; d++) {
      // Not a product with zero: a value the row must not see may be infinite or NaN.
      sums[d] = sums[d] * shrink + select(0f, weight * ${read(type, 'v[key + d]')}, visible);
    }
    largest = next;
  }
  if (token < params.tokens) {
    if (total == 0f) {
      total = f32(params.keys);
      for (var j = 0u; j < params.keys; j++) {
        for (var d = 0u; d < D; d++) {
          sums[d] += ${read(type, 'v[start + j * width + d]')};
        }
      }
    }
    for (var d = 0u; d < D; d++) {
      y[row + d] = ${stored(type, 'sums[d] / total')};
    }
  }
}
`,
  })
