// Random token ids in place of data: for benches, and for synthetic models, which have no tokenizer.
// A pure function of the seed.

import { noiseKey, threefry2x32 } from '../noise/threefry.ts'
import { IGNORED, type Example, type Tokenizer } from './types.ts'

/** `count` sequences of exactly `tokens` ids, each id but the first of a sequence labelled. */
export function randomExamples(
  count: number,
  tokens: number,
  vocabSize: number,
  seed: number,
): Example[] {
  const { k0, k1 } = noiseKey(seed, 0, 'random tokens', 'order')
  return Array.from({ length: count }, (_, i) => {
    const inputIds = Array.from({ length: tokens }, (_, t) => {
      return threefry2x32(k0, k1, t, i)[0] % vocabSize
    })
    return { inputIds, labels: [IGNORED, ...inputIds.slice(1)] }
  })
}

/** What stands in for the tokenizer of such data: texts mean nothing to it. */
export const wordless = (vocabSize: number, padId: number): Tokenizer => ({
  encode: () => [],
  decode: () => '',
  tokenOf: () => undefined,
  bosId: padId,
  eosId: padId,
  eosIds: [padId],
  padId,
  vocabSize,
})
