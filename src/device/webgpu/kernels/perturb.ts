// Perturbed weights of one compute tile, one version per probe:
//   E = W; for each term: E = fl(fl(E*decay) + coefficient*z(key)); W_p = fl(E + scale_p*z(probe))
// Shapes: raw holds the slab in its file's dtype (little endian, packed in u32); w is f32
// [versions, count]. Equals probeVersion(applyTerms(...)) of test/reference/noise.ts bit for bit.
// One invocation makes one noise pair, i.e. elements 2q and 2q+1 of the tensor; a tile may start
// in the middle of a pair (`lead` = 1).

// coefficient*z and scale_p*z are exact in f32, so a fused multiply-add changes nothing there.
// E*decay is not: it passes through an xor with `zero`, a parameter, which keeps any compiler from
// fusing it.
//
// WGSL lets an adapter take subnormals for zero in arithmetic (SwiftShader does). So weights are moved as
// integers, f16 is widened with integer operations, and a subnormal to which nothing is added stays as
// it is: whatever else is added to one is 2^-100 or more, beside which it vanishes in rounding
// anyway. What is left to the adapter is a product with a decay other than 1 below 2^-126.

import { defineKernel } from '../kernel.ts'
import { NOISE_WGSL } from './noise.ts'

/** Values of the constant DTYPE. */
const DTYPE = { F32: 0, F16: 1, BF16: 2 } as const

/** Bits of the f32 that an element of `raw` is. */
const WIDEN_WGSL = /* wgsl */ `
fn widen(index: u32) -> u32 {
  if (DTYPE == 0u) {
    return raw[index];
  }
  let half = (raw[index >> 1u] >> (16u * (index & 1u))) & 0xffffu;
  if (DTYPE == 2u) {
    return half << 16u;
  }
  let sign = (half & 0x8000u) << 16u;
  let size = half & 0x7fffu;
  if (size < 0x400u) {
    return bitcast<u32>(f32(size) * 0x1p-24f) | sign;
  }
  let rebias = select(112u << 23u, 224u << 23u, size >= 0x7c00u);
  return ((size << 13u) + rebias) | sign;
}
`

const PLUS_WGSL = /* wgsl */ `
// fl(e + scale*z), as bits.
fn plus(e: vec2<u32>, scale: f32, z: vec2<f32>) -> vec2<u32> {
  let added = scale * z;
  let sum = bitcast<vec2<u32>>(bitcast<vec2<f32>>(e) + added);
  let subnormal = (e & vec2(0x7fffffffu)) - 1u < vec2(0x7fffffu);
  return select(sum, e, subnormal & (added == vec2<f32>()));
}

fn any_different(a: vec2<u32>, b: vec2<u32>) -> bool {
  return a.x != b.x || a.y != b.y;
}
`

export const perturbKernel = (dtype: keyof typeof DTYPE) =>
  defineKernel({
    name: `perturb ${dtype}`,
    // w: bits of f32. recipe: a row (k0, k1, coefficient, decay) per term, then a row (scale, k0, k1, -) per version
    bindings: { raw: 'read u32', recipe: 'read vec4<u32>', w: 'read_write u32' },
    params: {
      offset: 'u32', // first element of the tile in raw
      count: 'u32', // elements of the tile
      pair_low: 'u32', // noise pair of the tile's first element, 64 bits
      pair_high: 'u32',
      lead: 'u32', // 1 if that element is the second of its pair
      recipe0: 'u32', // first row of the recipe
      terms: 'u32',
      versions: 'u32',
      zero: 'u32',
    },
    constants: { DTYPE: DTYPE[dtype] },
    snippets: [NOISE_WGSL, WIDEN_WGSL, PLUS_WGSL],
    body: /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(global_invocation_id) g: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let q = g.y * (groups.x * 256u) + g.x;
  if (2u * q >= params.count + params.lead) {
    return;
  }
  let pair_low = params.pair_low + q;
  let pair = vec2(pair_low, params.pair_high + select(0u, 1u, pair_low < q));
  // At the tile's ends one of the two elements may lie outside; it is computed and not stored.
  let has = vec2(2u * q >= params.lead, 2u * q + 1u < params.count + params.lead);
  let at = select(vec2(0u), vec2(2u * q, 2u * q + 1u) - params.lead, has);

  var e = vec2(widen(params.offset + at.x), widen(params.offset + at.y));
  for (var t = 0u; t < params.terms; t++) {
    let term = recipe[params.recipe0 + t];
    let decay = bitcast<f32>(term.w);
    let product = bitcast<vec2<u32>>(bitcast<vec2<f32>>(e) * decay) ^ vec2(params.zero);
    e = select(product, e, decay == 1f);
    // A term that only decays draws nothing, but where -0 meets the sign of the zero it would add.
    if ((term.z << 1u) != 0u || e.x == 0x80000000u || e.y == 0x80000000u) {
      e = plus(e, bitcast<f32>(term.z), gaussian_pair(term.xy, pair));
    }
  }
  var z = vec2<f32>();
  var drawn = vec2<u32>();
  var any = false;
  for (var p = 0u; p < params.versions; p++) {
    let row = recipe[params.recipe0 + params.terms + p];
    let scale = bitcast<f32>(row.x);
    // Both sides of a direction have the same key: its noise is drawn once.
    if (scale != 0f && (!any || any_different(drawn, row.yz))) {
      z = gaussian_pair(row.yz, pair);
      drawn = row.yz;
      any = true;
    }
    // A scale of zero leaves -0 and NaN payloads as they are.
    let version = select(plus(e, scale, z), e, scale == 0f);
    if (has.x) {
      w[p * params.count + at.x] = version.x;
    }
    if (has.y) {
      w[p * params.count + at.y] = version.y;
    }
  }
}
`,
  })
