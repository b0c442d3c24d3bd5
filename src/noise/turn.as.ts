// Threefry in WebAssembly SIMD (AssemblyScript): thirty-two words at a time, or the Gaussian noise that they
// mean. Four independent vectors hide each other's latency (measured: 2 vectors 2.64 ns, 3 2.32,
// 4 2.14, 6 slower than 4, as registers run out).

export const PARITY: i32 = 0x1bd11bda

// @ts-ignore: decorator
@inline
function rotl(x: v128, r: i32): v128 {
  return v128.or(i32x4.shl(x, r), i32x4.shr_u(x, 32 - r))
}

// Rotations by whole bytes are one shuffle where the others take three operations.
// @ts-ignore: decorator
@inline
function rotl16(x: v128): v128 {
  return i8x16.shuffle(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
}

// @ts-ignore: decorator
@inline
function rotl24(x: v128): v128 {
  return i8x16.shuffle(x, x, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12)
}

// @ts-ignore: decorator
@inline
export function add(x: v128, y: v128): v128 {
  return i32x4.add(x, y)
}

// @ts-ignore: decorator
@inline
function mix(x: v128, r: i32, y: v128): v128 {
  return v128.xor(rotl(x, r), y)
}

/** Noise of 32 elements, four by four, as f32, or 32 words; `drawTurn` leaves them here. */
export let z0: v128 = f32x4.splat(0)
export let z1: v128 = f32x4.splat(0)
export let z2: v128 = f32x4.splat(0)
export let z3: v128 = f32x4.splat(0)
export let z4: v128 = f32x4.splat(0)
export let z5: v128 = f32x4.splat(0)
export let z6: v128 = f32x4.splat(0)
export let z7: v128 = f32x4.splat(0)

// @ts-ignore: decorator
@inline
function toNoise(words: v128): v128 {
  const bytes = i8x16.popcnt(words)
  const sums = i32x4.extadd_pairwise_i16x8_s(i16x8.extadd_pairwise_i8x16_u(bytes))
  return f32x4.convert_i32x4_s(i32x4.sub(sums, i32x4.splat(16)))
}

/**
 * Noise for sixteen counters, or with `words` the words themselves: n holds the first four; a, b, c are
 * the key words k0, k1, k2 and t1..t5 those that are injected with a round number. The high counter word is 0 (wasm.ts refuses tensors
 * beyond 2^33 elements). Constants come as arguments because the engine does not hoist them.
 */
// @ts-ignore: decorator
@inline
export function drawTurn(
  n: v128, a: v128, b: v128, c: v128, t1: v128, t2: v128, t3: v128, t4: v128, t5: v128,
  words: bool = false,
): void {
  let x0 = add(n, a)
  let y0 = add(add(n, i32x4.splat(4)), a)
  let u0 = add(add(n, i32x4.splat(8)), a)
  let v0 = add(add(n, i32x4.splat(12)), a)
  let x1 = b
  let y1 = b
  let u1 = b
  let v1 = b
  // Rounds of four with rotations 13 15 26 6 and 17 29 16 24, a key injection after each four.
  x0 = add(x0, x1); x1 = mix(x1, 13, x0); y0 = add(y0, y1); y1 = mix(y1, 13, y0)
  u0 = add(u0, u1); u1 = mix(u1, 13, u0); v0 = add(v0, v1); v1 = mix(v1, 13, v0)
  x0 = add(x0, x1); x1 = mix(x1, 15, x0); y0 = add(y0, y1); y1 = mix(y1, 15, y0)
  u0 = add(u0, u1); u1 = mix(u1, 15, u0); v0 = add(v0, v1); v1 = mix(v1, 15, v0)
  x0 = add(x0, x1); x1 = mix(x1, 26, x0); y0 = add(y0, y1); y1 = mix(y1, 26, y0)
  u0 = add(u0, u1); u1 = mix(u1, 26, u0); v0 = add(v0, v1); v1 = mix(v1, 26, v0)
  x0 = add(x0, x1); x1 = mix(x1, 6, x0); y0 = add(y0, y1); y1 = mix(y1, 6, y0)
  u0 = add(u0, u1); u1 = mix(u1, 6, u0); v0 = add(v0, v1); v1 = mix(v1, 6, v0)
  x0 = add(x0, b); x1 = add(x1, t1); y0 = add(y0, b); y1 = add(y1, t1)
  u0 = add(u0, b); u1 = add(u1, t1); v0 = add(v0, b); v1 = add(v1, t1)
  x0 = add(x0, x1); x1 = mix(x1, 17, x0); y0 = add(y0, y1); y1 = mix(y1, 17, y0)
  u0 = add(u0, u1); u1 = mix(u1, 17, u0); v0 = add(v0, v1); v1 = mix(v1, 17, v0)
  x0 = add(x0, x1); x1 = mix(x1, 29, x0); y0 = add(y0, y1); y1 = mix(y1, 29, y0)
  u0 = add(u0, u1); u1 = mix(u1, 29, u0); v0 = add(v0, v1); v1 = mix(v1, 29, v0)
  x0 = add(x0, x1); x1 = v128.xor(rotl16(x1), x0); y0 = add(y0, y1); y1 = v128.xor(rotl16(y1), y0)
  u0 = add(u0, u1); u1 = v128.xor(rotl16(u1), u0); v0 = add(v0, v1); v1 = v128.xor(rotl16(v1), v0)
  x0 = add(x0, x1); x1 = v128.xor(rotl24(x1), x0); y0 = add(y0, y1); y1 = v128.xor(rotl24(y1), y0)
  u0 = add(u0, u1); u1 = v128.xor(rotl24(u1), u0); v0 = add(v0, v1); v1 = v128.xor(rotl24(v1), v0)
  x0 = add(x0, c); x1 = add(x1, t2); y0 = add(y0, c); y1 = add(y1, t2)
  u0 = add(u0, c); u1 = add(u1, t2); v0 = add(v0, c); v1 = add(v1, t2)
  x0 = add(x0, x1); x1 = mix(x1, 13, x0); y0 = add(y0, y1); y1 = mix(y1, 13, y0)
  u0 = add(u0, u1); u1 = mix(u1, 13, u0); v0 = add(v0, v1); v1 = mix(v1, 13, v0)
  x0 = add(x0, x1); x1 = mix(x1, 15, x0); y0 = add(y0, y1); y1 = mix(y1, 15, y0)
  u0 = add(u0, u1); u1 = mix(u1, 15, u0); v0 = add(v0, v1); v1 = mix(v1, 15, v0)
  x0 = add(x0, x1); x1 = mix(x1, 26, x0); y0 = add(y0, y1); y1 = mix(y1, 26, y0)
  u0 = add(u0, u1); u1 = mix(u1, 26, u0); v0 = add(v0, v1); v1 = mix(v1, 26, v0)
  x0 = add(x0, x1); x1 = mix(x1, 6, x0); y0 = add(y0, y1); y1 = mix(y1, 6, y0)
  u0 = add(u0, u1); u1 = mix(u1, 6, u0); v0 = add(v0, v1); v1 = mix(v1, 6, v0)
  x0 = add(x0, a); x1 = add(x1, t3); y0 = add(y0, a); y1 = add(y1, t3)
  u0 = add(u0, a); u1 = add(u1, t3); v0 = add(v0, a); v1 = add(v1, t3)
  x0 = add(x0, x1); x1 = mix(x1, 17, x0); y0 = add(y0, y1); y1 = mix(y1, 17, y0)
  u0 = add(u0, u1); u1 = mix(u1, 17, u0); v0 = add(v0, v1); v1 = mix(v1, 17, v0)
  x0 = add(x0, x1); x1 = mix(x1, 29, x0); y0 = add(y0, y1); y1 = mix(y1, 29, y0)
  u0 = add(u0, u1); u1 = mix(u1, 29, u0); v0 = add(v0, v1); v1 = mix(v1, 29, v0)
  x0 = add(x0, x1); x1 = v128.xor(rotl16(x1), x0); y0 = add(y0, y1); y1 = v128.xor(rotl16(y1), y0)
  u0 = add(u0, u1); u1 = v128.xor(rotl16(u1), u0); v0 = add(v0, v1); v1 = v128.xor(rotl16(v1), v0)
  x0 = add(x0, x1); x1 = v128.xor(rotl24(x1), x0); y0 = add(y0, y1); y1 = v128.xor(rotl24(y1), y0)
  u0 = add(u0, u1); u1 = v128.xor(rotl24(u1), u0); v0 = add(v0, v1); v1 = v128.xor(rotl24(v1), v0)
  x0 = add(x0, b); x1 = add(x1, t4); y0 = add(y0, b); y1 = add(y1, t4)
  u0 = add(u0, b); u1 = add(u1, t4); v0 = add(v0, b); v1 = add(v1, t4)
  x0 = add(x0, x1); x1 = mix(x1, 13, x0); y0 = add(y0, y1); y1 = mix(y1, 13, y0)
  u0 = add(u0, u1); u1 = mix(u1, 13, u0); v0 = add(v0, v1); v1 = mix(v1, 13, v0)
  x0 = add(x0, x1); x1 = mix(x1, 15, x0); y0 = add(y0, y1); y1 = mix(y1, 15, y0)
  u0 = add(u0, u1); u1 = mix(u1, 15, u0); v0 = add(v0, v1); v1 = mix(v1, 15, v0)
  x0 = add(x0, x1); x1 = mix(x1, 26, x0); y0 = add(y0, y1); y1 = mix(y1, 26, y0)
  u0 = add(u0, u1); u1 = mix(u1, 26, u0); v0 = add(v0, v1); v1 = mix(v1, 26, v0)
  x0 = add(x0, x1); x1 = mix(x1, 6, x0); y0 = add(y0, y1); y1 = mix(y1, 6, y0)
  u0 = add(u0, u1); u1 = mix(u1, 6, u0); v0 = add(v0, v1); v1 = mix(v1, 6, v0)
  x0 = add(x0, c); x1 = add(x1, t5); y0 = add(y0, c); y1 = add(y1, t5)
  u0 = add(u0, c); u1 = add(u1, t5); v0 = add(v0, c); v1 = add(v1, t5)
  if (!words) {
    x0 = toNoise(x0); x1 = toNoise(x1); y0 = toNoise(y0); y1 = toNoise(y1)
    u0 = toNoise(u0); u1 = toNoise(u1); v0 = toNoise(v0); v1 = toNoise(v1)
  }
  z0 = i32x4.shuffle(x0, x1, 0, 4, 1, 5)
  z1 = i32x4.shuffle(x0, x1, 2, 6, 3, 7)
  z2 = i32x4.shuffle(y0, y1, 0, 4, 1, 5)
  z3 = i32x4.shuffle(y0, y1, 2, 6, 3, 7)
  z4 = i32x4.shuffle(u0, u1, 0, 4, 1, 5)
  z5 = i32x4.shuffle(u0, u1, 2, 6, 3, 7)
  z6 = i32x4.shuffle(v0, v1, 0, 4, 1, 5)
  z7 = i32x4.shuffle(v0, v1, 2, 6, 3, 7)
}
