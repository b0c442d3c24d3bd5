// Threefry2x32-20: the counter-based generator behind every random number of a run (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", SC11). Pure functions, no generator state.
// Twins with the same bits: turn.as.ts (WebAssembly SIMD) and device/webgpu/kernels/noise.ts (WGSL).
// What the words mean as noise is in distributions.ts.
//
// Known answers: key 0 0, counter 0 0 -> 6b200159 99ba4efe.

import { sha256 } from './node.ts'

/** Bits of the rotations of eight rounds; they repeat. */
const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24] as const

/**
 * Two u32 words for a 64-bit key (k0, k1) and a 64-bit counter (c0, c1); all u32 in, u32 out. Plain
 * loops: a closure per round costs five times as much.
 */
export function threefry2x32(k0: number, k1: number, c0: number, c1: number): [number, number] {
  const keys = [k0 | 0, k1 | 0, 0x1bd11bda ^ k0 ^ k1] as const
  let x0 = (c0 + k0) | 0
  let x1 = (c1 + k1) | 0
  // Five groups of four rounds, a pair of key words injected after each.
  for (let group = 1; group <= 5; group++) {
    const first = group % 2 === 1 ? 0 : 4
    for (let i = first; i < first + 4; i++) {
      const r = ROTATIONS[i]!
      x0 = (x0 + x1) | 0
      x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0
    }
    x0 = (x0 + keys[group % 3]!) | 0
    x1 = (x1 + keys[(group + 1) % 3]! + group) | 0
  }
  return [x0 >>> 0, x1 >>> 0]
}

/** What a stream of noise is for; the number is part of the key and never changes meaning. */
const ROLE = {
  z: 0,
  order: 1,
  sample: 2,
  left: 3,
  right: 4,
  layers: 5,
  init: 6,
  round: 7,
} as const
/** Directions of one step differ in the bits above the role. */
const ROLES = 256
export type Role = keyof typeof ROLE

/** 53 of a block's 64 bits as a multiple of 2^-53 in [0, 1): exact, so the same on every machine. */
export function uniform53([high, low]: readonly [number, number]): number {
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53
}

/** The 64-bit Threefry key of one tensor's noise at one step. */
export interface NoiseKey {
  readonly k0: number
  readonly k1: number
}

/**
 * Key of (run seed, step, tensor name, role, direction). Seed is a safe non-negative integer, step a
 * u32, direction below 2^24.
 * The name enters through the first eight bytes of its SHA-256, so that equal names (tied weights)
 * share noise and no registration order matters.
 */
export function noiseKey(
  seed: number,
  step: number,
  name: string,
  role: Role,
  direction = 0,
): NoiseKey {
  const [h0, h1] = nameWords(name)
  const purpose = ROLE[role] + ROLES * direction
  const [a0, a1] = threefry2x32(seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, step, purpose)
  const [k0, k1] = threefry2x32(a0, a1, h0, h1)
  return { k0, k1 }
}

const names = new Map<string, [number, number]>()

function nameWords(name: string): [number, number] {
  let words = names.get(name)
  if (!words) {
    const { buffer, byteOffset } = sha256(name)
    const digest = new DataView(buffer, byteOffset)
    words = [digest.getUint32(0, true), digest.getUint32(4, true)]
    names.set(name, words)
  }
  return words
}
