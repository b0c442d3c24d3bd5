// The attention of attention.ts by one subgroup per workgroup, for software adapters, where every
// load is made lane by lane: what all lanes want is loaded once, each lane another part, and
// broadcast. A lane holds two queries while it makes scores (each lane loads another key), and four
// columns of all queries' sums while it adds up values (each lane loads other columns).
// The online softmax goes by blocks of `lanes` keys that begin at key 0, so that here too a row's
// bits depend on the keys it sees alone. Needs D to be a multiple of four.

import { defineKernel } from '../kernel.ts'
import { ATTENTION_PARAMS, type AttentionSpec } from './attention.ts'
import { type Element, elementSpec, read4, stored4, suffix } from './elements.ts'
import { lines } from './matmul-common.ts'

/** Largest head size: beyond it the driver takes seconds to compile. */
export const MAX_SUBGROUP_HEAD_SIZE = 128

/** Query rows of one workgroup. */
export const subgroupAttentionRows = (lanes: number) => own * lanes

/** Queries of a lane. */
const own = 2

export function attentionSubgroupKernel(
  headSize: number,
  lanes: number,
  type: Element = 'f32',
): AttentionSpec {
  const rows = subgroupAttentionRows(lanes)
  const depth = headSize / 4
  /** Groups of columns, four to each lane; the last may be incomplete. */
  const groups = Math.ceil(depth / lanes)
  const each = <T>(n: number, make: (i: number) => T) =>
    Array.from({ length: n }, (_, i) => make(i))
  const column = (c: number) => `min(${c * lanes}u + lane, ${depth - 1}u)`
  return defineKernel({
    name: `attention ${headSize} subgroup${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }, [], ['subgroups']),
    bindings: {
      q: `read vec4<${type}>`,
      k: `read vec4<${type}>`,
      v: `read vec4<${type}>`,
      key_mask: 'read f32',
      y: `read_write vec4<${type}>`,
    },
    params: ATTENTION_PARAMS,
    body: /* wgsl */ `
// A weight of -1 marks a key that the row does not see: its value may be infinite or NaN.
fn weigh(weight: f32, value: vec4<f32>) -> vec4<f32> {
  return select(weight * value, vec4<f32>(), weight == -1f);
}

// Of four columns of all values of a sequence.
fn mean_value(first: u32, width: u32) -> vec4<f32> {
  var sum = vec4<f32>();
  for (var j = 0u; j < params.keys; j++) {
    sum += ${read4(type, 'v[first + j * width]')};
  }
  return sum / f32(params.keys);
}

@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = group.y * groups.x + group.x;
  let each = (params.tokens + ${rows - 1}u) / ${rows}u * params.heads; // workgroups of a sequence
  let sequence = id / each;
  if (sequence >= params.sequences) {
    return;
  }
  let first = id % each / params.heads * ${rows}u;
  let head = id % params.heads;
  let width = params.heads * ${depth}u;
  let earlier = params.keys - params.tokens; // keys before the first query's own
  let start = sequence * params.keys * width + head * ${depth}u;
  let mask0 = (sequence % params.batch) * params.keys;
  let rows0 = sequence * params.tokens * width + head * ${depth}u;
${lines(
  own,
  (h) => `  let last${h} = earlier + first + ${h * lanes}u + lane; // the last key it sees
  let row${h} = rows0 + min(first + ${h * lanes}u + lane, params.tokens - 1u) * width;`,
)}
${lines(rows, (r) => lines(groups, (c) => `  var sums${r}_${c} = vec4<f32>();`))}
${lines(own, (h) => `  var largest${h} = -3e38f;\n  var total${h} = 0f;\n  var weights${h}: array<f32, ${lanes}>;`)}
  let keys = min(earlier + first + ${rows}u, params.keys);
  for (var j = 0u; j < keys; j += ${lanes}u) {
    let own = min(j + lane, keys - 1u);
    let open = select(0f, key_mask[mask0 + own], j + lane < keys);
    let key = start + own * width;
${lines(own, (h) => lines(lanes, (l) => `    var score${h}_${l} = 0f;`))}
    for (var d = 0u; d < ${depth}u; d++) {
${lines(own, (h) => `      let q${h} = ${read4(type, `q[row${h} + d]`)} * params.scale;`)}
      let part = ${read4(type, 'k[key + d]')};
      var b: vec4<f32>;
${lines(
  lanes,
  (l) => `      b = subgroupBroadcast(part, ${l}u);
${lines(own, (h) => each(4, (i) => `      score${h}_${l} += q${h}[${i}] * b[${i}];`).join(''))}`,
)}
    }
${lines(
  lanes,
  (l) => `    let open${l} = subgroupBroadcast(open, ${l}u) != 0f;
${lines(own, (h) => `    let sees${h}_${l} = open${l} && j + ${l}u <= last${h};`)}`,
)}
${lines(
  own,
  (h) => `    var next${h} = largest${h};
${lines(lanes, (l) => `    next${h} = select(next${h}, score${h}_${l}, sees${h}_${l} && score${h}_${l} > next${h});`)}
    let shrink${h} = exp(largest${h} - next${h});
    largest${h} = next${h};
    total${h} *= shrink${h};
${lines(
  lanes,
  (l) => `    let weight${h}_${l} = select(-1f, exp(score${h}_${l} - next${h}), sees${h}_${l});
    total${h} += select(0f, weight${h}_${l}, sees${h}_${l});
    weights${h}[${l}] = weight${h}_${l};`,
)}`,
)}
    var weight: f32;
${lines(
  rows,
  (r) => `    weight = subgroupBroadcast(shrink${Math.floor(r / lanes)}, ${r % lanes}u);
${lines(groups, (c) => `    sums${r}_${c} *= weight;`)}`,
)}
    for (var l = 0u; l < ${lanes}u; l++) {
      let value = start + min(j + l, keys - 1u) * width;
${lines(groups, (c) => `      let v${c} = ${read4(type, `v[value + ${column(c)}]`)};`)}
${lines(own, (h) => `      let own${h} = weights${h}[l];`)}
${lines(
  rows,
  (r) => `      weight = subgroupBroadcast(own${Math.floor(r / lanes)}, ${r % lanes}u);
${lines(groups, (c) => `      sums${r}_${c} += weigh(weight, v${c});`)}`,
)}
    }
  }
  // Stored in a loop, since every store is a lot of code.
  var ends: array<vec4<f32>, ${rows * groups}>;
  var totals: array<f32, ${rows}>;
${lines(
  rows,
  (r) => `  totals[${r}] = subgroupBroadcast(total${Math.floor(r / lanes)}, ${r % lanes}u);
${lines(groups, (c) => `  ends[${r * groups + c}] = sums${r}_${c};`)}`,
)}
  for (var i = 0u; i < ${rows * groups}u; i++) {
    let r = i / ${groups}u;
    let c = (i % ${groups}u) * ${lanes}u + lane;
    if (first + r < params.tokens && c < ${depth}u) {
      var value = ends[i] / totals[r];
      if (totals[r] == 0f) {
        value = mean_value(start + c, width);
      }
      y[rows0 + (first + r) * width + c] = ${stored4(type, 'value')};
    }
  }
}
`,
  })
}
