// Pieces that models share: nothing here knows a model, a device kind or a method.

import type { Activation, Rows, Tensor } from '../src/device/device.ts'
import type { ModelInput, Run } from './model.ts'

/** nn.LayerNorm over the last dimension; `name`.weight and `name`.bias may be absent (not affine). */
export async function layerNorm(
  run: Run,
  x: Tensor,
  name: string,
  y: Tensor,
  at: Rows = run.at,
  eps = 1e-5,
) {
  const [weight, bias] = [run.vector(`${name}.weight`), run.vector(`${name}.bias`)]
  await run.device.layerNorm(x, weight, bias, eps, y, at)
}

/** y = f(linear(x)). A relu is part of the product if no tile of it adds to another one's; else f follows it. */
export async function activatedLinear(
  run: Run,
  x: Tensor,
  name: string,
  kind: Activation,
  y: Tensor,
  { transposed = false } = {},
) {
  const relu = kind === 'relu' && !transposed
  await run.linear(x, name, y, relu)
  if (!relu) await run.device.activation(kind, y, run.at)
}

/** Token ids as one row index per (b, t). */
export function tokenRows(input: ModelInput): Uint32Array {
  return Uint32Array.from(input.inputIds.flat())
}

/** Position of each (b, t) among its sequence's real tokens, from 0; 0 for padding before them. */
export function positions(input: ModelInput): Uint32Array {
  return Uint32Array.from(
    input.attentionMask.flatMap((mask, b) => {
      let seen = input.seen?.[b] ?? 0
      return mask.map((m) => Math.max(0, (seen += m) - 1))
    }),
  )
}

/**
 * OPT's learned positions (HF modeling_opt.py, OPTLearnedPositionalEmbedding): cumsum(mask)*mask - 1,
 * plus the table's offset of 2. Padded slots take row 1, real tokens rows 2, 3, 4, ...
 */
export function optPositions(input: ModelInput): Uint32Array {
  return Uint32Array.from(
    input.attentionMask.flatMap((mask, b) => {
      let seen = input.seen?.[b] ?? 0
      return mask.map((m) => (seen += m) * m - 1 + 2)
    }),
  )
}
