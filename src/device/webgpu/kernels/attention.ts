// y = softmax(q * scale * k^T) * v for every query row and head, over the keys that the query sees; the
// softmax is online (Milakov and Gimelshein, arXiv 1805.02867), so no matrix of scores exists. q, y
// [P*queries, H*D], k, v [P*keys, kvHeads*D]. Equals scaled_dot_product_attention with a mask. Who sees what
// is in a table (../attention-table.ts). One invocation makes one query row of one head, a workgroup a block of
// up to 32 rows that share a list of keys: all its lanes read the same key at the same time.
// Keys come in the order of the list and a key that a row does not see leaves no trace in it, so that a
// row's bits depend on its query and on its keys alone.

import { type Binding, defineKernel, type KernelSpec, type Params } from '../kernel.ts'
import { type Element, elementSpec, read, stored, suffix } from './elements.ts'
import { CAPPED_WGSL } from './soft-cap.ts'

/** Largest head size: q and the sums of a row live in registers (beyond 128 GPUs spill some). */
export const MAX_HEAD_SIZE = 256

/** Query rows of one workgroup. */
export const ATTENTION_ROWS = 32

/** Words of a block in the table. */
export const BLOCK_WORDS = 5

export const ATTENTION_PARAMS = {
  queries: 'u32', // rows of q and of k, of a probe
  keys: 'u32',
  heads: 'u32',
  kv_heads: 'u32',
  blocks: 'u32', // of a probe
  groups: 'u32', // workgroups: probes * blocks * heads
  scale: 'f32',
  cap: 'f32', // of scores, where they are capped
} as const satisfies Params

export type AttentionSpec = KernelSpec<
  Readonly<Record<'q' | 'k' | 'v' | 'table' | 'y', Binding>>,
  typeof ATTENTION_PARAMS
>

/** What a workgroup works on, for kernels in which D is a head's columns as their bindings count them. */
export const WORK_WGSL = /* wgsl */ `
struct Work {
  query0: u32, // first query of the block
  queries: u32,
  list: u32, // where the keys' list begins in the table
  begin: u32, // no query of the block sees another key than [begin, end) of the list
  end: u32,
  q: u32, // where the probe's and head's first row begins in q and y
  k: u32, // and in k and v
}

fn work_of(id: u32) -> Work {
  let head = id % params.heads;
  let probe = id / params.heads / params.blocks;
  let at = id / params.heads % params.blocks * ${BLOCK_WORDS}u;
  let kv_head = head / (params.heads / params.kv_heads);
  return Work(
    table[at],
    table[at + 1u],
    table[at + 2u],
    table[at + 3u],
    table[at + 4u],
    (probe * params.queries * params.heads + head) * D,
    (probe * params.keys * params.kv_heads + kv_head) * D,
  );
}

// Where a query's row begins in q and y.
fn query_at(work: Work, query: u32) -> u32 {
  return work.q + query * params.heads * D;
}

// Where the row of the list's key j begins in k and v.
fn key_at(work: Work, j: u32) -> u32 {
  return work.k + table[work.list + j] * params.kv_heads * D;
}

// The query sees the keys [x, y) of the list.
fn seen_by(query: u32) -> vec2<u32> {
  let at = params.blocks * ${BLOCK_WORDS}u + 2u * query;
  return vec2(table[at], table[at + 1u]);
}
`

/** What kernels of one head size differ in. */
export interface AttentionShape {
  readonly type: Element
  /** Where queries are: in q, or in y, whose rows become the results (no buffer may be bound for both). */
  readonly place: 'q' | 'y'
  /** Whether scores are capped (soft-cap.ts). */
  readonly capped: boolean
}

export const USUAL_ATTENTION: AttentionShape = { type: 'f32', place: 'q', capped: false }

/** Behind a kernel's name. */
export const shapeSuffix = ({ type, place, capped }: AttentionShape) =>
  `${suffix({ x: type, y: type })}${place === 'y' ? ' in place' : ''}${capped ? ' capped' : ''}`

/** Snippets of a kernel. */
export const attentionSnippets = ({ capped }: AttentionShape) =>
  capped ? [WORK_WGSL, CAPPED_WGSL] : [WORK_WGSL]

export const attentionKernel = (
  headSize: number,
  shape: AttentionShape = USUAL_ATTENTION,
): AttentionSpec => {
  const { type, place, capped } = shape
  return defineKernel({
    name: `attention ${headSize}${shapeSuffix(shape)}`,
    ...elementSpec({ x: type, y: type }, attentionSnippets(shape)),
    bindings: {
      q: `read ${type}`,
      k: `read ${type}`,
      v: `read ${type}`,
      table: 'read u32',
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
  if (id >= params.groups) {
    return;
  }
  let work = work_of(id);
  // Lanes beyond the block's end repeat its last query and store nothing.
  let own = work.query0 + min(lane, work.queries - 1u);
  let seen = seen_by(own);
  let row = query_at(work, own);
  var query: array<f32, D>;
  var sums: array<f32, D>;
  for (var d = 0u; d < D; d++) {
    query[d] = ${read(type, `${place}[row + d]`)} * params.scale;
    sums[d] = 0f;
  }
  var largest = -3e38f;
  var total = 0f;
  for (var j = work.begin; j < work.end; j++) {
    if (j < seen.x || j >= seen.y) {
      continue;
    }
    let key = key_at(work, j);
    var score = 0f;
    for (var d = 0u; d < D; d++) {
      score += query[d] * ${read(type, 'k[key + d]')};
    }
${capped ? '    score = capped(score, params.cap);\n' : ''}    let next = select(largest, score, score > largest); // max() may drop a NaN
    let shrink = exp(largest - next);
    let weight = exp(score - next);
    total = total * shrink + weight;
    for (var d = 0u; d < D; d++) {
      sums[d] = sums[d] * shrink + weight * ${read(type, 'v[key + d]')};
    }
    largest = next;
  }
  if (lane < work.queries) {
    for (var d = 0u; d < D; d++) {
      y[row + d] = ${stored(type, 'sums[d] / total')};
    }
  }
}
`,
  })
}
