// The element types of activations as the kernels see them. Arithmetic is f32 throughout: an f16 is
// widened where it is read and rounded where it is stored. Of f32 kernels not a character differs from
// what they would be without any of this.

import { LARGEST_HALF } from '../../f16.ts'

export type Element = 'f32' | 'f16'

/** Of the rows that a product reads and of those that it makes. */
export interface RowTypes {
  readonly x: Element
  readonly y: Element
}

export const F32_ROWS: RowTypes = { x: 'f32', y: 'f32' }

/** What a kernel on such elements needs beside its body, and how its name tells it from others. */
export function elementSpec<X extends 'subgroups' = never>(
  types: RowTypes,
  snippets: readonly string[] = [],
  enables: readonly X[] = [],
) {
  const halves = types.x === 'f16' || types.y === 'f16'
  return {
    enables: halves ? [...enables, 'f16' as const] : enables,
    snippets: types.y === 'f16' ? [...snippets, HALF_WGSL] : snippets,
  }
}

/** Behind a kernel's name. */
export function suffix({ x, y }: RowTypes): string {
  if (x === y) return x === 'f32' ? '' : ' f16'
  return ` ${x} to ${y}`
}

/** WGSL of an entry point that runs statements for every `i` below params.count, one invocation each. */
export const forEachElement = (statements: string) => /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(global_invocation_id) g: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let i = g.y * (groups.x * 256u) + g.x;
  if (i < params.count) {
    ${statements}
  }
}
`

/** WGSL that reads `place` as f32, or as vec4<f32>. */
export const read = (type: Element, place: string) => (type === 'f32' ? place : `f32(${place})`)
export const read4 = (type: Element, place: string) =>
  type === 'f32' ? place : `vec4<f32>(${place})`

/** WGSL of what is stored for an f32 value, or for a vec4<f32>. */
export const stored = (type: Element, value: string) => (type === 'f32' ? value : `half(${value})`)
export const stored4 = (type: Element, value: string) =>
  type === 'f32' ? value : `half4(${value})`

/** Comparisons, since clamp() may drop a NaN. */
const HALF_WGSL = /* wgsl */ `
fn half4(v: vec4<f32>) -> vec4<f16> {
  const MOST = vec4<f32>(${LARGEST_HALF}f);
  let below = select(v, MOST, v > MOST);
  return vec4<f16>(select(below, -MOST, below < -MOST));
}

fn half(v: f32) -> f16 {
  return half4(vec4(v)).x;
}
`
