// The matmul of matmul-common.ts by one subgroup per workgroup: lanes lie along the columns, four each, and
// load their own weights; of x each lane loads another row, which reaches all lanes by a broadcast.
// Four k at a time, each loaded value is used `rows` (of w) or 4*lanes (of x) times. This is what
// software Vulkan likes best: there every load is made lane by lane with a check of its bounds, even
// one whose address all lanes share, while a broadcast and a product are single instructions.
// Needs subgroups of exactly `lanes` invocations. Transposed weights: see matmul-common.ts; a lane's columns
// are then adjacent, so that four of them are one load.

import { defineKernel } from '../kernel.ts'
import { ADDEND_WGSL } from './addend.ts'
import { elementSpec, F32_ROWS, read4, type RowTypes, suffix } from './elements.ts'
import {
  blockWgsl,
  lines,
  MATMUL_PARAMS,
  matmulBindings,
  type MatmulSpec,
  storeWgsl,
} from './matmul-common.ts'

interface SubgroupShape {
  /** Invocations of a subgroup. */
  readonly lanes: number
  /** Sums of one invocation along the rows: a multiple or a divisor of lanes. */
  readonly rows: number
  readonly types?: RowTypes
}

export const matmulSubgroup = ({ lanes, rows, types = F32_ROWS }: SubgroupShape): MatmulSpec =>
  subgroupMatmul({
    lanes,
    rows,
    types,
    name: `matmul subgroup ${rows}x4`,
    transposed: false,
    x: 'version * params.rows * depth',
    stride: 'depth',
    col: 'lane',
    weights: (start) => `  let edge = params.cols - 1u;
${lines(4, (c) => `  let w${c} = ${start} + min(col + ${c * lanes}u, edge) * depth;`)}`,
    load: 'transpose(mat4x4(w[w0 + k], w[w1 + k], w[w2 + k], w[w3 + k]))',
  })

export const matmulTransposedSubgroup = ({
  lanes,
  rows,
  types = F32_ROWS,
}: SubgroupShape): MatmulSpec =>
  subgroupMatmul({
    lanes,
    rows,
    types,
    name: `matmul transposed subgroup ${rows}x4`,
    transposed: true,
    x: '(version * params.rows * params.width + params.col0) / 4u',
    stride: 'params.width / 4u',
    col: '4u * lane',
    weights: (start) => `  let cols = params.cols / 4u;
  let w0 = ${start} + min(col / 4u, cols - 1u);`,
    load: `mat4x4(
      w[w0 + 4u * k * cols],
      w[w0 + (4u * k + 1u) * cols],
      w[w0 + (4u * k + 2u) * cols],
      w[w0 + (4u * k + 3u) * cols],
    )`,
  })

/** What the two differ in, as WGSL. */
interface Layout extends Required<SubgroupShape> {
  readonly name: string
  readonly transposed: boolean
  /** Where x starts and how far its rows are apart, in vec4. */
  readonly x: string
  readonly stride: string
  /** A lane's first column in its block. */
  readonly col: string
  /** Addresses in w; `start` is that of the version, in vec4. */
  readonly weights: (start: string) => string
  /** Four columns of four k: a mat4x4 of which column j holds k = 4*k + j. */
  readonly load: string
}

function subgroupMatmul(layout: Layout): MatmulSpec {
  const { lanes, rows, types, name, transposed } = layout
  const cols = 4 * lanes
  const loads = Math.max(1, rows / lanes)
  return {
    rows,
    cols,
    multiple: 4,
    spec: defineKernel({
      name: name + suffix(types),
      bindings: matmulBindings(4, types),
      params: MATMUL_PARAMS,
      ...elementSpec(
        types,
        [
          ADDEND_WGSL,
          blockWgsl(rows, cols),
          storeWgsl(transposed ? 1 : lanes, types.y, transposed),
        ],
        ['subgroups'],
      ),
      body: /* wgsl */ `
@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let block = block_of(group, groups);
  let version = group.z;
  let row = block.y;
  let col = block.x + ${layout.col};
  let depth = params.depth / 4u;
  // Lines beyond the edge repeat the last one and are not stored.
  let last = params.rows - 1u;
  let x_start = ${layout.x};
  let x_stride = ${layout.stride};
${lines(loads, (i) => `  let x${i} = x_start + min(row + ${i * lanes}u + lane % ${rows}u, last) * x_stride;`)}
${layout.weights('(params.weights0 + version * params.version) / 4u')}
${lines(rows, (r) => `  var sums${r} = vec4<f32>();`)}
  for (var k = 0u; k < depth; k++) {
    let b = ${layout.load};
${lines(loads, (i) => `    let own${i} = ${read4(types.x, `x[x${i} + k]`)};`)}
    var a: vec4<f32>;
${lines(
  rows,
  (r) => `    a = subgroupBroadcast(own${Math.floor(r / lanes)}, ${r % lanes}u);
    sums${r} += a.x * b[0]; sums${r} += a.y * b[1]; sums${r} += a.z * b[2]; sums${r} += a.w * b[3];`,
)}
  }
${lines(rows, (r) => `  store4(version, row + ${r}u, col, sums${r});`)}
}
`,
    }),
  }
}
