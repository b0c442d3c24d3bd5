// Prefix tuning (Li & Liang, arXiv 2101.00190, without reparametrisation, as MeZO trains it): n key-value
// pairs of each layer that every sequence sees before its own. To model code they are further vectors and
// positions that are taken; that attention sees them is src/engine/attention.ts's matter.

import { UserError } from '../src/util/errors.ts'
import type { Model } from './model.ts'

export type PrefixPart = 'keys' | 'values'

/** Keys or values of a layer's prefix, [n, kvHeads*D] as one row. */
export const prefixName = (layer: number, part: PrefixPart) => `prefix.layers.${layer}.${part}`

/** @throws UserError if the model has no position left for a token */
export function withPrefix(model: Model, prefixTokens: number): Model {
  if (prefixTokens >= model.maxPositions) {
    throw new UserError(
      `--prefix-tokens ${prefixTokens}: this model has ${model.maxPositions} positions, and text needs some of them`,
      { exitCode: 2 },
    )
  }
  const { kvHeads, headSize } = model.attention
  const size = prefixTokens * kvHeads * headSize
  const layers = Array.from({ length: model.layers }, (_, layer) => layer)
  return {
    ...model,
    prefixTokens,
    maxPositions: model.maxPositions - prefixTokens,
    vectors: [
      ...model.vectors,
      ...layers.flatMap((layer) => [
        { name: prefixName(layer, 'keys'), size, block: layer },
        { name: prefixName(layer, 'values'), size, block: layer },
      ]),
    ],
  }
}
