// Texts that grow by a token at a time, whose keys and values stay on the device in the rows of one cache: a
// text is the list of its rows, so that texts of one prompt share what they have in common and a beam may go on
// from another one without a copy. Which tokens are added is generate.ts's matter.

import { packTexts, type PackedBatch } from '../data/packing.ts'
import { upTo, type QueryGroup } from '../device/packed.ts'
import type { Engine } from '../engine/engine.ts'
import { apartIn, passOver } from '../engine/forward.ts'
import { wantLogits } from '../engine/head.ts'
import type { PassInput } from '../engine/run.ts'
import { sizeOf, type BatchShape } from '../engine/shape.ts'
import { UserError } from '../util/errors.ts'
import { maxOf } from '../util/extremes.ts'

/** A pass to be run, and the logits [V] after each text, there once it was; null for one that has ended. */
interface TextPass extends PassInput {
  readonly logits: readonly (Float32Array | null)[]
}

interface Texts {
  /** That every pass fits in. */
  readonly shape: BatchShape
  /** The pass over the prompts. */
  begin(): TextPass
  /** The pass over one more token of each text that has not ended (null). */
  add(tokens: readonly (number | null)[]): TextPass
  /** Text i becomes what text parents[i] is. */
  reorder(parents: readonly number[]): void
}

/** @throws UserError if a prompt and its new tokens exceed the model's positions */
export function createTexts(
  { model }: Pick<Engine, 'model'>,
  prompts: readonly (readonly number[])[],
  maxNewTokens: number,
): Texts {
  const { maxPositions, vocabSize, prefixTokens: n = 0 } = model
  const longest = maxOf(prompts.map((prompt) => prompt.length))
  if (longest + maxNewTokens > maxPositions) {
    throw new UserError(
      `a prompt of ${longest} tokens and ${maxNewTokens} new ones exceed the model's ${maxPositions} positions; lower --max-new-tokens or shorten the prompt`,
    )
  }
  const packed = packTexts(
    prompts.map((inputIds) => ({ inputIds, labels: [] })),
    { whole: true, apart: apartIn(model) },
  )
  const shape = shapeFor(packed, longest, maxNewTokens)
  /** Rows of the cache, a prefix's first, that each text is. */
  let texts = packed.textRows.map((rows) => [...upTo(n), ...rows.map((row) => n + row)])
  let used = packed.packed.ids.length

  /** The logits of `rows`, of which each text has one or none (-1); texts of one row have the same. */
  const wantedOf = (rows: Uint32Array, rowOf: readonly number[]) => {
    const { logits, wanted } = wantLogits(rows, vocabSize)
    return { logits: rowOf.map((row) => logits[rows.indexOf(row)] ?? null), wanted }
  }
  const cached = (places: Uint32Array, begins: boolean) => ({
    cached: { capacity: shape.cached, places, begins },
  })

  return {
    shape,
    begin() {
      const ends = packed.textRows.map((rows) => rows.at(-1)!)
      const { logits, wanted } = wantedOf(Uint32Array.from(new Set(ends)).sort(), ends)
      return { ...passOver(model, packed, wanted), ...cached(upTo(used), true), logits }
    },
    add(tokens) {
      const growing = [...tokens.keys()].filter((text) => tokens[text] !== null)
      const places = upTo(growing.length).map((i) => used + i)
      used += growing.length
      growing.forEach((text, i) => (texts[text] = [...texts[text]!, n + places[i]!]))
      const rowOf = [...tokens.keys()].map((text) => growing.indexOf(text))
      const { logits, wanted } = wantedOf(upTo(growing.length), rowOf)
      const groups = growing.map((text, i): QueryGroup => {
        const keys = Uint32Array.from(texts[text]!)
        return {
          query0: i,
          queries: 1,
          keys,
          from: Uint32Array.of(0),
          to: Uint32Array.of(keys.length),
        }
      })
      return {
        input: {
          ids: Uint32Array.from(growing, (text) => tokens[text]!),
          positions: Uint32Array.from(growing, (text) => texts[text]!.length - 1),
          lengths: Uint32Array.from(growing, (text) => texts[text]!.length),
        },
        sees: { groups, queries: groups.length, keys: n + shape.cached },
        wanted,
        ...cached(places, false),
        logits,
      }
    },
    reorder(parents) {
      texts = parents.map((parent) => texts[parent]!)
    },
  }
}

/** Of the pass over prompts, and of every pass over one more token of each text. */
function shapeFor(batch: PackedBatch, longest: number, maxNewTokens: number): BatchShape {
  const { packed, texts } = batch
  const prompts = sizeOf(packed)
  const [rows, most] = [packed.ids.length, longest + maxNewTokens]
  return {
    probes: 1,
    rows: Math.max(rows, texts.length),
    wanted: texts.length,
    targets: 1,
    groups: Math.max(prompts.groups, texts.length),
    listed: Math.max(prompts.listed, texts.length * most),
    longest: most,
    cached: rows + texts.length * maxNewTokens,
  }
}
