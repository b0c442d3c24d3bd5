// x = f(x) in place, element by element: relu, gelu (the erf form), gelu_new (the tanh form of Hugging Face)
// or silu; and y = f(y) * x, a gated unit. erfc is Abramowitz and Stegun 7.1.26, |error| <= 1.5e-7, used on
// |x| so that the tails keep their relative precision. 0.5*(1 + tanh u) is the logistic function of 2u.

import type { Activation } from '../../device.ts'
import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, forEachElement, read, stored, suffix } from './elements.ts'

/** Values of the constant KIND. */
const KIND = { relu: 0, gelu: 1, gelu_new: 2, silu: 3 } as const satisfies Record<
  Activation,
  number
>

const ACTIVATE_WGSL = /* wgsl */ `
fn gelu(v: f32) -> f32 {
  let a = abs(v) * 0.70710678f;
  let t = 1f / (1f + 0.3275911f * a);
  let series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f
    + t * (-1.453152027f + t * 1.061405429f))));
  let tail = 0.5f * series * exp(-a * a);
  return v * select(1f - tail, tail, v < 0f);
}

fn activate(v: f32) -> f32 {
  if (KIND == 0u) {
    return select(v, 0f, v < 0f); // max() may drop a NaN
  }
  if (KIND == 1u) {
    return gelu(v);
  }
  if (KIND == 2u) {
    return v / (1f + exp(-1.5957691216f * (v + 0.044715f * v * v * v)));
  }
  return v / (1f + exp(-v)); // 0 where exp() is infinite
}
`

export const activationKernel = (kind: Activation, type: Element = 'f32') =>
  defineKernel({
    name: `activation ${kind}${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }, [ACTIVATE_WGSL]),
    bindings: { x: `read_write ${type}` },
    params: { count: 'u32' },
    constants: { KIND: KIND[kind] },
    body: forEachElement(`x[i] = ${stored(type, `activate(${read(type, 'x[i]')})`)};`),
  })

export const gateKernel = (kind: Activation, type: Element = 'f32') =>
  defineKernel({
    name: `gate ${kind}${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }, [ACTIVATE_WGSL]),
    bindings: { x: `read ${type}`, y: `read_write ${type}` },
    params: { count: 'u32' },
    constants: { KIND: KIND[kind] },
    body: forEachElement(
      `y[i] = ${stored(type, `activate(${read(type, 'y[i]')}) * ${read(type, 'x[i]')}`)};`,
    ),
  })
