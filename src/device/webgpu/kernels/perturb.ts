// Perturbed weights of one compute tile, one version per probe:
//   E = W; for each term: E = fl(fl(E*decay) + coefficient*z(key)); W_p = fl(E + scale_p*z(probe))
// Shapes: raw holds the slab in its file's dtype (little endian, packed in u32); w is f32
// [versions, count]. Equals probeVersion(applyTerms(...)) of test/reference/noise.ts bit for bit.
// A tile may start in the middle of what a counter of the noise makes, `lead` elements behind its first.

// coefficient*z and scale_p*z are exact in f32, so a fused multiply-add changes nothing there.
// E*decay is not: it passes through an xor with `zero`, a parameter, which keeps any compiler from
// fusing it.
//
// WGSL lets an adapter take subnormals for zero in arithmetic (SwiftShader does). So weights are moved as
// integers, f16 is widened with integer operations, and a subnormal to which nothing is added stays as
// it is: whatever else is added to one is 2^-100 or more, beside which it vanishes in rounding
// anyway. What is left to the adapter is a product with a decay other than 1 below 2^-126.

import { DISTRIBUTIONS, type Noise } from '../../../noise/distributions.ts'
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

/** What both kernels do with a term's product, for as many elements as one invocation has. */
const stepWgsl = (width: 2 | 4) => /* wgsl */ `
alias Bits = vec${width}<u32>;
alias Values = vec${width}<f32>;

// fl(e*decay), as bits.
fn decayed(e: Bits, decay: f32) -> Bits {
  let product = bitcast<Bits>(bitcast<Values>(e) * decay) ^ Bits(params.zero);
  return select(product, e, decay == 1f);
}

// fl(e + added), as bits.
fn plus(e: Bits, added: Values) -> Bits {
  let sum = bitcast<Bits>(bitcast<Values>(e) + added);
  let subnormal = (e & Bits(0x7fffffffu)) - 1u < Bits(0x7fffffu);
  return select(sum, e, subnormal & (added == Values()));
}

// Of the noise, so many counters ahead of the tile's first.
fn counter(ahead: u32) -> vec2<u32> {
  let low = params.counter_low + ahead;
  return vec2(low, params.counter_high + select(0u, 1u, low < ahead));
}
`

// One invocation makes one noise pair, i.e. elements 2q and 2q+1 of the tensor.
const GAUSSIAN_WGSL = /* wgsl */ `
fn any_different(a: vec2<u32>, b: vec2<u32>) -> bool {
  return a.x != b.x || a.y != b.y;
}

@compute @workgroup_size(256)
fn main(
  @builtin(global_invocation_id) g: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let q = g.y * (groups.x * 256u) + g.x;
  if (2u * q >= params.count + params.lead) {
    return;
  }
  let pair = counter(q);
  // At the tile's ends one of the two elements may lie outside; it is computed and not stored.
  let has = vec2(2u * q >= params.lead, 2u * q + 1u < params.count + params.lead);
  let at = select(vec2(0u), vec2(2u * q, 2u * q + 1u) - params.lead, has);

  var e = vec2(widen(params.offset + at.x), widen(params.offset + at.y));
  for (var t = 0u; t < params.terms; t++) {
    let term = recipe[params.recipe0 + t];
    e = decayed(e, bitcast<f32>(term.w));
    // A term that only decays draws nothing, but where -0 meets the sign of the zero it would add.
    if ((term.z << 1u) != 0u || e.x == 0x80000000u || e.y == 0x80000000u) {
      e = plus(e, bitcast<f32>(term.z) * gaussian_pair(term.xy, pair));
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
    let version = select(plus(e, scale * z), e, scale == 0f);
    if (has.x) {
      w[p * params.count + at.x] = version.x;
    }
    if (has.y) {
      w[p * params.count + at.y] = version.y;
    }
  }
}
`

// A workgroup makes 1,024 elements, each invocation every 256th of them: what is next to each other is
// read and written at once. Their signs are sixteen blocks of the generator for each row of the recipe,
// which all invocations draw together, sixteen rows at a time.
const RADEMACHER_WGSL = /* wgsl */ `
const BLOCKS = 16u;
const ROWS = 16u;
var<workgroup> words: array<u32, 2u * BLOCKS * ROWS>;

// scale*z: -scale where the bit is set.
fn times_sign(scale: u32, own: Bits, bit: u32) -> Values {
  return bitcast<Values>(Bits(scale) ^ ((own >> Bits(bit)) << Bits(31u)));
}

@compute @workgroup_size(256)
fn main(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let index = group.y * groups.x + group.x;
  let place = index * 1024u + lane + vec4(0u, 256u, 512u, 768u);
  // At the tile's ends elements may lie outside; they are computed and not stored.
  let has = (place >= Bits(params.lead)) & (place < Bits(params.count + params.lead));
  let at = select(Bits(), place - params.lead, has);
  let source = params.offset + at;
  var e = Bits(widen(source.x), widen(source.y), widen(source.z), widen(source.w));
  let rows = params.terms + params.versions;
  for (var first = 0u; first < rows; first += ROWS) {
    workgroupBarrier();
    let drawn = first + lane / BLOCKS;
    if (drawn < rows) {
      let row = recipe[params.recipe0 + drawn];
      let key = select(row.yz, row.xy, drawn < params.terms);
      let pair = threefry2x32(key, counter(index * BLOCKS + lane % BLOCKS));
      words[2u * lane] = pair.x;
      words[2u * lane + 1u] = pair.y;
    }
    workgroupBarrier();
    for (var r = first; r < min(first + ROWS, rows); r++) {
      let row = recipe[params.recipe0 + r];
      let word = 2u * BLOCKS * (r - first) + lane / 32u;
      let own = Bits(words[word], words[word + 8u], words[word + 16u], words[word + 24u]);
      if (r < params.terms) {
        e = plus(decayed(e, bitcast<f32>(row.w)), times_sign(row.z, own, lane % 32u));
        continue;
      }
      // A scale of zero leaves -0 and NaN payloads as they are.
      let moved = plus(e, times_sign(row.x, own, lane % 32u));
      let version = select(moved, e, bitcast<f32>(row.x) == 0f);
      let to = (r - params.terms) * params.count + at;
      if (has.x) {
        w[to.x] = version.x;
      }
      if (has.y) {
        w[to.y] = version.y;
      }
      if (has.z) {
        w[to.z] = version.z;
      }
      if (has.w) {
        w[to.w] = version.w;
      }
    }
  }
}
`

/** `perGroup`: elements that a workgroup makes. */
const BODIES = {
  gaussian: { step: stepWgsl(2), body: GAUSSIAN_WGSL, perGroup: 512 },
  rademacher: { step: stepWgsl(4), body: RADEMACHER_WGSL, perGroup: 1024 },
} as const satisfies Record<Noise, unknown>

export const perturbKernel = (dtype: keyof typeof DTYPE, noise: Noise) =>
  defineKernel({
    name: `perturb ${dtype} ${noise}`,
    // w: bits of f32. recipe: a row (k0, k1, coefficient, decay) per term, then a row (scale, k0, k1, -) per version
    bindings: { raw: 'read u32', recipe: 'read vec4<u32>', w: 'read_write u32' },
    params: {
      offset: 'u32', // first element of the tile in raw
      count: 'u32', // elements of the tile
      counter_low: 'u32', // of the noise of the tile's first element, 64 bits
      counter_high: 'u32',
      lead: 'u32', // elements of that counter before it
      recipe0: 'u32', // first row of the recipe
      terms: 'u32',
      versions: 'u32',
      zero: 'u32',
    },
    constants: { DTYPE: DTYPE[dtype] },
    snippets: [NOISE_WGSL, WIDEN_WGSL, BODIES[noise].step],
    body: BODIES[noise].body,
  })

/** The part of the parameters that `count` elements of a tensor from `first` on decide, and the workgroups that make them. */
export function perturbSpan(noise: Noise, first: number, count: number) {
  const { perCounter } = DISTRIBUTIONS[noise]
  const lead = first % perCounter
  const counter = (first - lead) / perCounter
  return {
    params: {
      counter_low: counter % 2 ** 32,
      counter_high: Math.floor(counter / 2 ** 32),
      lead,
      count,
    },
    groups: Math.ceil((count + lead) / BODIES[noise].perGroup),
  }
}
