// WGSL twin of noise/threefry.ts and noise/distributions.ts: Threefry2x32-20 and the raw Gaussian
// noise popcount(word) - 16. Integer operations only, so that every device gives the same bits.
// Signs, which are single bits of the words, are perturb.ts's.

export const NOISE_WGSL = /* wgsl */ `
fn rotate(v: u32, bits: u32) -> u32 {
  return (v << bits) | (v >> (32u - bits));
}

fn four_rounds(x: vec2<u32>, r: vec4<u32>) -> vec2<u32> {
  var a = x.x + x.y;
  var b = rotate(x.y, r.x) ^ a;
  a += b;
  b = rotate(b, r.y) ^ a;
  a += b;
  b = rotate(b, r.z) ^ a;
  a += b;
  b = rotate(b, r.w) ^ a;
  return vec2(a, b);
}

// Two u32 words for a 64-bit key and a 64-bit counter.
fn threefry2x32(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
  const EVEN = vec4(13u, 15u, 26u, 6u);
  const ODD = vec4(17u, 29u, 16u, 24u);
  let k2 = 0x1bd11bdau ^ key.x ^ key.y;
  var x = counter + key;
  x = four_rounds(x, EVEN) + vec2(key.y, k2 + 1u);
  x = four_rounds(x, ODD) + vec2(k2, key.x + 2u);
  x = four_rounds(x, EVEN) + vec2(key.x, key.y + 3u);
  x = four_rounds(x, ODD) + vec2(key.y, k2 + 4u);
  return four_rounds(x, EVEN) + vec2(k2, key.x + 5u);
}

// Raw noise of one element pair: integers in [-16, 16] with variance 8.
fn gaussian_pair(key: vec2<u32>, pair: vec2<u32>) -> vec2<f32> {
  return vec2<f32>(vec2<i32>(countOneBits(threefry2x32(key, pair))) - 16);
}
`
