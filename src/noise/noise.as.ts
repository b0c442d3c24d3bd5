// The WebAssembly SIMD twin of threefry.ts and distributions.ts (AssemblyScript; `npm run build:wasm`).
// Entry points widen a run of weights to f32, apply one update owed and write a pair of versions.
// Thirty-two elements at a time: four independent Threefry vectors hide each other's latency
// (measured: 2 vectors 2.64 ns, 3 2.32, 4 2.14, 6 slower than 4, as registers run out).
// Memory is the caller's (wasm.ts): every pointer points into this module's own linear memory.

const PARITY: i32 = 0x1bd11bda

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
function add(x: v128, y: v128): v128 {
  return i32x4.add(x, y)
}

// @ts-ignore: decorator
@inline
function mix(x: v128, r: i32, y: v128): v128 {
  return v128.xor(rotl(x, r), y)
}

/** Noise of 32 elements, four by four, as f32; `drawTurn` leaves it here. */
let z0: v128 = f32x4.splat(0)
let z1: v128 = f32x4.splat(0)
let z2: v128 = f32x4.splat(0)
let z3: v128 = f32x4.splat(0)
let z4: v128 = f32x4.splat(0)
let z5: v128 = f32x4.splat(0)
let z6: v128 = f32x4.splat(0)
let z7: v128 = f32x4.splat(0)

// @ts-ignore: decorator
@inline
function toNoise(words: v128): v128 {
  const bytes = i8x16.popcnt(words)
  const sums = i32x4.extadd_pairwise_i16x8_s(i16x8.extadd_pairwise_i8x16_u(bytes))
  return f32x4.convert_i32x4_s(i32x4.sub(sums, i32x4.splat(16)))
}

/**
 * Noise for sixteen counters, or with `words` the words themselves: n holds the first four; a, b, c are the key words k0, k1, k2 and t1..t5
 * those that are injected with a round number. The high counter word is 0 (wasm.ts refuses tensors
 * beyond 2^33 elements). Constants come as arguments because the engine does not hoist them.
 */
// @ts-ignore: decorator
@inline
function drawTurn(
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

/** Four f16 in the low halves of i32 lanes to f32; subnormals, infinities and NaN included. */
// @ts-ignore: decorator
@inline
function widenHalf(h: v128): v128 {
  const magnitude = v128.and(h, i32x4.splat(0x7fff))
  const scaled = f32x4.mul(i32x4.shl(magnitude, 13), f32x4.splat(5192296858534827628530496329220096.0))
  const special = v128.and(i32x4.ge_s(magnitude, i32x4.splat(0x7c00)), i32x4.splat(0x7f800000))
  const sign = i32x4.shl(v128.and(h, i32x4.splat(0x8000)), 16)
  return v128.or(v128.or(scaled, special), sign)
}

/** Widens n elements (a multiple of 4 is read and written: buffers are padded). dtype: 0 F32, 1 F16, 2 BF16. */
export function widen(src: usize, dtype: i32, n: i32, out: usize): void {
  for (let i = 0; i < n; i += 4) {
    let w: v128
    if (dtype == 0) {
      w = v128.load(src + ((<usize>i) << 2))
    } else {
      const h = v128.load64_zero(src + ((<usize>i) << 1))
      const wide = i32x4.extend_low_i16x8_u(h)
      w = dtype == 1 ? widenHalf(wide) : i32x4.shl(wide, 16)
    }
    v128.store(out + ((<usize>i) << 2), w)
  }
}

// @ts-ignore: decorator
@inline
function step(p: usize, z: v128, c: v128, d: v128): void {
  v128.store(p, f32x4.add(f32x4.mul(v128.load(p), d), f32x4.mul(z, c)))
}

/**
 * e[i] = fl(fl(e[i]*decay) + coefficient*z(key, i)) for n elements, n a multiple of 32, the first
 * element index even and equal to 2*pair.
 */
export function accumulate(
  e: usize, n: i32, pair: i32, k0: i32, k1: i32, coefficient: f32, decay: f32,
): void {
  const k2 = PARITY ^ k0 ^ k1
  const a = i32x4.splat(k0)
  const b = i32x4.splat(k1)
  const c = i32x4.splat(k2)
  const t1 = i32x4.splat(k2 + 1)
  const t2 = i32x4.splat(k0 + 2)
  const t3 = i32x4.splat(k1 + 3)
  const t4 = i32x4.splat(k2 + 4)
  const t5 = i32x4.splat(k0 + 5)
  let counters = add(i32x4.splat(pair), i32x4(0, 1, 2, 3))
  const scale = f32x4.splat(coefficient)
  const d = f32x4.splat(decay)
  const end = e + ((<usize>n) << 2)
  for (let p = e; p < end; p += 128) {
    drawTurn(counters, a, b, c, t1, t2, t3, t4, t5)
    counters = add(counters, i32x4.splat(16))
    step(p, z0, scale, d)
    step(p + 16, z1, scale, d)
    step(p + 32, z2, scale, d)
    step(p + 48, z3, scale, d)
    step(p + 64, z4, scale, d)
    step(p + 80, z5, scale, d)
    step(p + 96, z6, scale, d)
    step(p + 112, z7, scale, d)
  }
}

// @ts-ignore: decorator
@inline
function pairStep(e: usize, z: v128, s: v128, plus: usize, minus: usize): void {
  const w = v128.load(e)
  const d = f32x4.mul(z, s)
  v128.store(plus, f32x4.add(w, d))
  v128.store(minus, f32x4.sub(w, d))
}

/** plus[i] = fl(e[i] + scale*z(key, i)), minus[i] = fl(e[i] - scale*z(key, i)); as accumulate. */
export function probePair(
  e: usize, n: i32, pair: i32, k0: i32, k1: i32, scale: f32, plus: usize, minus: usize,
): void {
  const k2 = PARITY ^ k0 ^ k1
  const a = i32x4.splat(k0)
  const b = i32x4.splat(k1)
  const c = i32x4.splat(k2)
  const t1 = i32x4.splat(k2 + 1)
  const t2 = i32x4.splat(k0 + 2)
  const t3 = i32x4.splat(k1 + 3)
  const t4 = i32x4.splat(k2 + 4)
  const t5 = i32x4.splat(k0 + 5)
  let counters = add(i32x4.splat(pair), i32x4(0, 1, 2, 3))
  const s = f32x4.splat(scale)
  const end = e + ((<usize>n) << 2)
  for (let p = e; p < end; p += 128) {
    drawTurn(counters, a, b, c, t1, t2, t3, t4, t5)
    counters = add(counters, i32x4.splat(16))
    pairStep(p, z0, s, plus, minus)
    pairStep(p + 16, z1, s, plus + 16, minus + 16)
    pairStep(p + 32, z2, s, plus + 32, minus + 32)
    pairStep(p + 48, z3, s, plus + 48, minus + 48)
    pairStep(p + 64, z4, s, plus + 64, minus + 64)
    pairStep(p + 80, z5, s, plus + 80, minus + 80)
    pairStep(p + 96, z6, s, plus + 96, minus + 96)
    pairStep(p + 112, z7, s, plus + 112, minus + 112)
    plus += 128
    minus += 128
  }
}

/** e[i] = fl(e[i]*s) for n elements, n a multiple of 4. */
export function scale(e: usize, n: i32, s: f32): void {
  const factor = f32x4.splat(s)
  const end = e + ((<usize>n) << 2)
  for (let p = e; p < end; p += 16) v128.store(p, f32x4.mul(v128.load(p), factor))
}

/** e[i] = fl(e[i] + fl(s*v[i])) for n elements. */
export function axpy(e: usize, v: usize, n: i32, s: f32): void {
  const factor = f32x4.splat(s)
  const end = e + ((<usize>n) << 2)
  for (; e + 16 <= end; e += 16) {
    v128.store(e, f32x4.add(v128.load(e), f32x4.mul(v128.load(v), factor)))
    v += 16
  }
  for (; e < end; e += 4) {
    store<f32>(e, load<f32>(e) + load<f32>(v) * s)
    v += 4
  }
}

/** Four f32 as f16 in the low halves of i32 lanes, rounded up with the chance that 13 bits of `word` decide. */
// @ts-ignore: decorator
@inline
function roundFour(e: v128, word: v128): v128 {
  const magnitude = v128.and(e, i32x4.splat(0x7fffffff))
  const chance = v128.and(word, i32x4.splat(0x1fff))
  // From 2^-14 on the 13 bits that f16 lacks are the lowest; a carry moves on into the exponent.
  const normal = i32x4.sub(i32x4.shr_u(add(magnitude, chance), 13), i32x4.splat(0x1c000))
  // Below, f16 counts in steps of 2^-24.
  const steps = f32x4.mul(magnitude, f32x4.splat(16777216.0))
  const share = f32x4.mul(f32x4.convert_i32x4_s(chance), f32x4.splat(0.0001220703125))
  const small = i32x4.trunc_sat_f32x4_s(f32x4.add(steps, share))
  const isSmall = i32x4.lt_s(magnitude, i32x4.splat(0x38800000))
  const half = i32x4.min_s(v128.bitselect(small, normal, isSmall), i32x4.splat(0x7c00))
  return v128.or(half, v128.and(i32x4.shr_u(e, 16), i32x4.splat(0x8000)))
}

// @ts-ignore: decorator
@inline
function roundEight(e: usize, first: v128, second: v128, out: usize): v128 {
  const low = roundFour(v128.load(e), first)
  const high = roundFour(v128.load(e + 16), second)
  const halves = i16x8.narrow_i32x4_u(low, high)
  v128.store(out, halves)
  return i16x8.eq(v128.and(halves, i16x8.splat(0x7fff)), i16x8.splat(0x7c00))
}

/**
 * out[i] = e[i] as f16, rounded stochastically by the words of `key`; n and pair as accumulate. Returns
 * whether one of them is beyond f16's range.
 */
export function roundHalf(e: usize, n: i32, pair: i32, k0: i32, k1: i32, out: usize): bool {
  const k2 = PARITY ^ k0 ^ k1
  const a = i32x4.splat(k0)
  const b = i32x4.splat(k1)
  const c = i32x4.splat(k2)
  const t1 = i32x4.splat(k2 + 1)
  const t2 = i32x4.splat(k0 + 2)
  const t3 = i32x4.splat(k1 + 3)
  const t4 = i32x4.splat(k2 + 4)
  const t5 = i32x4.splat(k0 + 5)
  let counters = add(i32x4.splat(pair), i32x4(0, 1, 2, 3))
  let beyond = i32x4.splat(0)
  const end = e + ((<usize>n) << 2)
  for (let p = e; p < end; p += 128) {
    drawTurn(counters, a, b, c, t1, t2, t3, t4, t5, true)
    counters = add(counters, i32x4.splat(16))
    beyond = v128.or(beyond, roundEight(p, z0, z1, out))
    beyond = v128.or(beyond, roundEight(p + 32, z2, z3, out + 16))
    beyond = v128.or(beyond, roundEight(p + 64, z4, z5, out + 32))
    beyond = v128.or(beyond, roundEight(p + 96, z6, z7, out + 48))
    out += 64
  }
  return v128.any_true(beyond)
}
