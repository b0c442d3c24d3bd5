// The WebAssembly SIMD twin of distributions.ts (AssemblyScript; compiled by `npm run build`).
// Entry points widen a run of weights to f32, apply one update owed and write a pair of versions.
// Memory is the caller's (wasm.ts): pointers that it gives point behind this module's own data.

import { add, drawTurn, PARITY, z0, z1, z2, z3, z4, z5, z6, z7 } from './turn.as.ts'

/**
 * Four f16 in the low halves of i32 lanes to f32; subnormals, infinities and NaN included. Nothing on the way is
 * subnormal in f32, which costs processors a hundred times an ordinary sum.
 */
// @ts-ignore: decorator
@inline
function widenHalf(h: v128): v128 {
  const magnitude = v128.and(h, i32x4.splat(0x7fff))
  const small = i32x4.lt_s(magnitude, i32x4.splat(0x400))
  const special = i32x4.gt_s(magnitude, i32x4.splat(0x7bff))
  // The exponent's bias goes from 15 to 127; of infinities and NaN to the highest exponent.
  const bias = i32x4.add(i32x4.splat(112 << 23), v128.and(special, i32x4.splat(112 << 23)))
  const wide = i32x4.add(i32x4.shl(magnitude, 13), bias)
  // A subnormal gets a first bit, 2^-14, which is taken off again.
  const first = v128.and(small, i32x4.splat(113 << 23))
  const exact = f32x4.sub(v128.or(wide, first), first)
  return v128.or(exact, i32x4.shl(v128.and(h, i32x4.splat(0x8000)), 16))
}

/** Widens n elements (a multiple of 16 is read and written: buffers are padded). dtype: 0 F32, 1 F16, 2 BF16. */
export function widen(src: usize, dtype: i32, n: i32, out: usize): void {
  const end = out + ((<usize>n) << 2)
  if (dtype == 0) {
    memory.copy(out, src, (<usize>n) << 2)
  } else if (dtype == 1) {
    for (; out < end; out += 64, src += 32) {
      const a = v128.load(src)
      const b = v128.load(src, 16)
      v128.store(out, widenHalf(i32x4.extend_low_i16x8_u(a)))
      v128.store(out, widenHalf(i32x4.extend_high_i16x8_u(a)), 16)
      v128.store(out, widenHalf(i32x4.extend_low_i16x8_u(b)), 32)
      v128.store(out, widenHalf(i32x4.extend_high_i16x8_u(b)), 48)
    }
  } else {
    for (; out < end; out += 32, src += 16) {
      const a = v128.load(src)
      v128.store(out, i32x4.shl(i32x4.extend_low_i16x8_u(a), 16))
      v128.store(out, i32x4.shl(i32x4.extend_high_i16x8_u(a), 16), 16)
    }
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

/** The words of one turn: signs of 1,024 elements. */
const WORDS: usize = memory.data(128, 16)

function drawWords(counter: i32, k0: i32, k1: i32): void {
  const k2 = PARITY ^ k0 ^ k1
  drawTurn(
    add(i32x4.splat(counter), i32x4(0, 1, 2, 3)),
    i32x4.splat(k0), i32x4.splat(k1), i32x4.splat(k2), i32x4.splat(k2 + 1), i32x4.splat(k0 + 2),
    i32x4.splat(k1 + 3), i32x4.splat(k2 + 4), i32x4.splat(k0 + 5), true,
  )
  v128.store(WORDS, z0); v128.store(WORDS, z1, 16); v128.store(WORDS, z2, 32); v128.store(WORDS, z3, 48)
  v128.store(WORDS, z4, 64); v128.store(WORDS, z5, 80); v128.store(WORDS, z6, 96); v128.store(WORDS, z7, 112)
}

/** The word at `word` in four lanes, lane l shifted so that its bit j + l is the highest after 28 - j more. */
// @ts-ignore: decorator
@inline
function spread(word: usize): v128 {
  return i32x4.mul(v128.load32_splat(word), i32x4(8, 4, 2, 1))
}

/** s*z of the four elements whose bits are the highest of `bits` shifted by `left`. */
// @ts-ignore: decorator
@inline
function signed(s: v128, bits: v128, left: i32): v128 {
  return v128.xor(s, v128.and(i32x4.shl(bits, left), i32x4.splat(0x80000000)))
}

// @ts-ignore: decorator
@inline
function signedStep(p: usize, bits: v128, left: i32, c: v128, d: v128): void {
  v128.store(p, f32x4.add(f32x4.mul(v128.load(p), d), signed(c, bits, left)))
}

/** As accumulate for signs: n is a multiple of 64, the first element's index 64*counter. */
export function accumulateSigns(
  e: usize, n: i32, counter: i32, k0: i32, k1: i32, coefficient: f32, decay: f32,
): void {
  const c = f32x4.splat(coefficient)
  const d = f32x4.splat(decay)
  const end = e + ((<usize>n) << 2)
  for (; e < end; counter += 16) {
    drawWords(counter, k0, k1)
    for (let word = WORDS; word < WORDS + 128 && e < end; word += 4) {
      const bits = spread(word)
      signedStep(e, bits, 28, c, d)
      signedStep(e + 16, bits, 24, c, d)
      signedStep(e + 32, bits, 20, c, d)
      signedStep(e + 48, bits, 16, c, d)
      signedStep(e + 64, bits, 12, c, d)
      signedStep(e + 80, bits, 8, c, d)
      signedStep(e + 96, bits, 4, c, d)
      signedStep(e + 112, bits, 0, c, d)
      e += 128
    }
  }
}

// @ts-ignore: decorator
@inline
function signedPair(e: usize, bits: v128, left: i32, s: v128, plus: usize, minus: usize): void {
  const w = v128.load(e)
  const d = signed(s, bits, left)
  v128.store(plus, f32x4.add(w, d))
  v128.store(minus, f32x4.sub(w, d))
}

/** As probePair for signs; n and counter as accumulateSigns. */
export function probePairSigns(
  e: usize, n: i32, counter: i32, k0: i32, k1: i32, scale: f32, plus: usize, minus: usize,
): void {
  const s = f32x4.splat(scale)
  const end = e + ((<usize>n) << 2)
  for (; e < end; counter += 16) {
    drawWords(counter, k0, k1)
    for (let word = WORDS; word < WORDS + 128 && e < end; word += 4) {
      const bits = spread(word)
      signedPair(e, bits, 28, s, plus, minus)
      signedPair(e + 16, bits, 24, s, plus + 16, minus + 16)
      signedPair(e + 32, bits, 20, s, plus + 32, minus + 32)
      signedPair(e + 48, bits, 16, s, plus + 48, minus + 48)
      signedPair(e + 64, bits, 12, s, plus + 64, minus + 64)
      signedPair(e + 80, bits, 8, s, plus + 80, minus + 80)
      signedPair(e + 96, bits, 4, s, plus + 96, minus + 96)
      signedPair(e + 112, bits, 0, s, plus + 112, minus + 112)
      e += 128
      plus += 128
      minus += 128
    }
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
