// The attention of attention.ts by one subgroup per workgroup, for software adapters, where every
// load is made lane by lane: what all lanes want is loaded once, each lane another part, and
// broadcast. A lane holds two queries while it makes scores (each lane loads another key), and four
// columns of all queries' sums while it adds up values (each lane loads other columns).
// The online softmax goes by tiles of `lanes` keys that begin at key 0 of the list, so that here too a
// row's bits depend on the keys it sees alone. Needs D to be a multiple of four.

import { defineKernel } from '../kernel.ts'
import {
  ATTENTION_PARAMS,
  type AttentionShape,
  attentionSnippets,
  type AttentionSpec,
  shapeSuffix,
  USUAL_ATTENTION,
} from './attention.ts'
import { elementSpec, read4, stored4 } from './elements.ts'
import { lines } from './matmul-common.ts'

/** Largest head size: beyond it the driver takes seconds to compile. */
export const MAX_SUBGROUP_HEAD_SIZE = 128

/** Query rows of one workgroup. */
export const subgroupAttentionRows = (lanes: number) => own * lanes

/** Queries of a lane. */
const own = 2

interface Shape extends AttentionShape {
  readonly lanes: number
  /** Query rows of a workgroup: row r is query r / lanes of lane r % lanes. */
  readonly rows: number
  /** Columns of a head, in fours. */
  readonly depth: number
  /** Groups of columns, four to each lane; the last may be incomplete. */
  readonly groups: number
}

export function attentionSubgroupKernel(
  headSize: number,
  lanes: number,
  options: AttentionShape = USUAL_ATTENTION,
): AttentionSpec {
  const { type } = options
  const depth = headSize / 4
  const groups = Math.ceil(depth / lanes)
  const shape: Shape = { ...options, lanes, rows: subgroupAttentionRows(lanes), depth, groups }
  return defineKernel({
    name: `attention ${headSize} subgroup${shapeSuffix(options)}`,
    ...elementSpec(
      { x: type, y: type },
      [...attentionSnippets(options), WEIGH_WGSL],
      ['subgroups'],
    ),
    bindings: {
      q: `read vec4<${type}>`,
      k: `read vec4<${type}>`,
      v: `read vec4<${type}>`,
      table: 'read u32',
      y: `read_write vec4<${type}>`,
    },
    params: ATTENTION_PARAMS,
    constants: { D: depth, LANES: lanes },
    body: /* wgsl */ `
@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let id = group.y * groups.x + group.x;
  if (id >= params.groups) {
    return;
  }
  let work = work_of(id);
${start(shape)}
  for (var j = work.begin / LANES * LANES; j < work.end; j += LANES) {
    let key = key_at(work, min(j + lane, work.end - 1u));
${scores(shape)}
${softmax(shape)}
${values(shape)}
  }
${end(shape)}
}
`,
  })
}

/** A weight of -1 marks a key that the row does not see: its value may be infinite or NaN. */
const WEIGH_WGSL = /* wgsl */ `
fn weigh(sum: vec4<f32>, weight: f32, value: vec4<f32>) -> vec4<f32> {
  return select(sum + weight * value, sum, weight == -1f);
}
`

/** A lane's queries, of which those beyond the block's end repeat the last, and the sums of all rows. */
const start = ({ lanes, rows, groups }: Shape) => /* wgsl */ `
${lines(
  own,
  (h) => `  let query${h} = work.query0 + min(${h * lanes}u + lane, work.queries - 1u);
  let seen${h} = seen_by(query${h});
  let row${h} = query_at(work, query${h});
  var largest${h} = -3e38f;
  var total${h} = 0f;
  var weights${h}: array<f32, LANES>;`,
)}
  var keys: array<u32, LANES>;
${lines(rows, (r) => lines(groups, (c) => `  var sums${r}_${c} = vec4<f32>();`))}`

/** Scores of the tile's keys for a lane's queries. */
const scores = ({ lanes, type, place, capped }: Shape) => /* wgsl */ `
${lines(own, (h) => lines(lanes, (l) => `    var score${h}_${l} = 0f;`))}
    for (var d = 0u; d < D; d++) {
${lines(own, (h) => `      let q${h} = ${read4(type, `${place}[row${h} + d]`)} * params.scale;`)}
      let part = ${read4(type, 'k[key + d]')};
      var b: vec4<f32>;
${lines(
  lanes,
  (l) => `      b = subgroupBroadcast(part, ${l}u);
${lines(own, (h) => lines(4, (i) => `      score${h}_${l} += q${h}[${i}] * b[${i}];`))}`,
)}
    }${capped ? capScores(lanes) : ''}`

const capScores = (lanes: number) =>
  lines(own, (h) =>
    lines(lanes, (l) => `\n    score${h}_${l} = capped(score${h}_${l}, params.cap);`),
  )

/** Weights of the tile's keys, and what the sums so far shrink to; a tile that a row does not see leaves both. */
const softmax = ({ lanes }: Shape) =>
  lines(
    own,
    (h) => /* wgsl */ `
${lines(lanes, (l) => `    let sees${h}_${l} = j + ${l}u >= seen${h}.x && j + ${l}u < seen${h}.y;`)}
    var next${h} = largest${h};
${lines(lanes, (l) => `    next${h} = select(next${h}, score${h}_${l}, sees${h}_${l} && score${h}_${l} > next${h});`)}
    let shrink${h} = select(exp(largest${h} - next${h}), 1f, largest${h} == next${h});
    largest${h} = next${h};
    total${h} *= shrink${h};
${lines(
  lanes,
  (l) => `    let weight${h}_${l} = select(-1f, exp(score${h}_${l} - next${h}), sees${h}_${l});
    total${h} += select(0f, weight${h}_${l}, sees${h}_${l});
    weights${h}[${l}] = weight${h}_${l};`,
)}`,
  )

/** Adds the tile's values to the sums of all rows. */
const values = ({ lanes, rows, depth, groups, type }: Shape) => {
  const broadcast = (value: string, r: number) =>
    `subgroupBroadcast(${value}${Math.floor(r / lanes)}, ${r % lanes}u)`
  const column = (c: number) => `min(${c * lanes}u + lane, ${depth - 1}u)`
  return /* wgsl */ `
    var weight: f32;
${lines(
  rows,
  (r) => `    weight = ${broadcast('shrink', r)};
${lines(groups, (c) => `    sums${r}_${c} *= weight;`)}`,
)}
${lines(lanes, (l) => `    keys[${l}] = subgroupBroadcast(key, ${l}u);`)}
    let count = min(LANES, work.end - j);
    for (var l = 0u; l < count; l++) {
${lines(groups, (c) => `      let v${c} = ${read4(type, `v[keys[l] + ${column(c)}]`)};`)}
${lines(own, (h) => `      let own${h} = weights${h}[l];`)}
${lines(
  rows,
  (r) => `      weight = ${broadcast('own', r)};
${lines(groups, (c) => `      sums${r}_${c} = weigh(sums${r}_${c}, weight, v${c});`)}`,
)}
    }`
}

/** Stores the rows in a loop, since every store is a lot of code. */
const end = ({ lanes, rows, groups, type }: Shape) => /* wgsl */ `
  var ends: array<vec4<f32>, ${rows * groups}>;
  var totals: array<f32, ${rows}>;
${lines(
  rows,
  (r) => `  totals[${r}] = subgroupBroadcast(total${Math.floor(r / lanes)}, ${r % lanes}u);
${lines(groups, (c) => `  ends[${r * groups + c}] = sums${r}_${c};`)}`,
)}
  for (var i = 0u; i < ${rows * groups}u; i++) {
    let r = i / ${groups}u;
    let c = (i % ${groups}u) * LANES + lane;
    if (r < work.queries && c < D) {
      y[query_at(work, work.query0 + r) + c] = ${stored4(type, 'ends[i] / totals[r]')};
    }
  }`
