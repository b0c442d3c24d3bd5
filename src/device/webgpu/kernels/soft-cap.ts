// x = cap * tanh(x / cap) in place, element by element, in f32 (Gemma 2's logits). tanh() of large numbers may
// overflow on the way, so that they are cut where its f32 value is 1 already; a NaN stays one.

import { defineKernel } from '../kernel.ts'
import { forEachElement } from './elements.ts'

/** WGSL of a capped number; attention's scores are capped by it too. */
export const CAPPED_WGSL = /* wgsl */ `
fn capped(v: f32, cap: f32) -> f32 {
  let u = v / cap;
  let below = select(u, 10f, u > 10f);
  return cap * tanh(select(below, -10f, below < -10f));
}
`

export const softCapKernel = defineKernel({
  name: 'softCap',
  snippets: [CAPPED_WGSL],
  bindings: { x: 'read_write f32' },
  params: { count: 'u32', cap: 'f32' },
  body: forEachElement('x[i] = capped(x[i], params.cap);'),
})
