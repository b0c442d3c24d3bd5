// A batch of texts that grow by a token at a time, whose keys and values stay on the device: each row is
// one text, and may go on from where another one is. Which tokens are added, and which batches share a
// pass of the weights, is generate.ts's matter.

import type { Tile } from '../device/device.ts'
import type { Engine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import type { PassInput } from '../engine/run.ts'

export interface TextOptions {
  readonly maxNewTokens: number
  readonly padId: number
}

/** A pass to be run, and the logits [V] of each row, there once it was. */
interface TextPass extends PassInput {
  readonly logits: readonly Float32Array[]
}

/** One row for each prompt, padded on the left. */
interface Texts {
  /** The pass over the prompts. */
  begin(): TextPass
  /** The pass over one more token of every row (null: padding that nobody reads). */
  add(tokens: readonly (number | null)[]): TextPass
  /** Row i becomes what row parents[i] is, from the same prompt. */
  reorder(parents: readonly number[]): Promise<void>
}

/** Tokens of the longest prompt, and positions that texts of these prompts take at most. */
export function textSize(prompts: readonly (readonly number[])[], maxNewTokens: number) {
  const tokens = prompts.reduce((most, p) => Math.max(most, p.length), 0)
  return { tokens, keys: tokens + maxNewTokens }
}

/**
 * @param lane of the sweep, if several batches share each pass
 * @throws UserError if prompts and new tokens exceed the model's positions
 */
export function createTexts(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  { maxNewTokens, padId }: TextOptions,
  lane = 0,
): Texts {
  const { tokens: longest, keys: capacity } = textSize(prompts, maxNewTokens)
  const { maxPositions, vocabSize, hidden, prefixTokens = 0 } = engine.model
  if (capacity > maxPositions) {
    throw new UserError(
      `a prompt of ${longest} tokens and ${maxNewTokens} new ones exceed the model's ${maxPositions} positions; lower --max-new-tokens or shorten the prompt`,
    )
  }
  const mask = prompts.map((p) => [...Array<number>(longest - p.length).fill(0), ...p.map(() => 1)])
  let past = 0

  /** `past` positions before these are cached. */
  function passOver(ids: readonly (readonly number[])[]): TextPass {
    const T = ids[0]!.length
    const input = {
      inputIds: ids,
      attentionMask: mask.map((row) => row.slice(past)),
      seen: mask.map((row) => row.slice(0, past).reduce((sum, m) => sum + m, 0)),
    }
    const rows = Uint32Array.from(ids.keys(), (b) => b * T + T - 1)
    const logits = ids.map(() => new Float32Array(vocabSize))
    const sink = (tile: Tile, data: Float32Array) =>
      logits.forEach((row, b) => {
        row.set(data.subarray(b * tile.rows, (b + 1) * tile.rows), tile.row0)
      })
    const cached = { capacity, past, mask }
    past += T
    return { input, wanted: { kind: 'logits', rows, sink }, cached, lane, logits }
  }

  return {
    begin: () => {
      const pads = prompts.map((p) => Array<number>(longest - p.length).fill(padId))
      return passOver(prompts.map((p, i) => [...pads[i]!, ...p]))
    },
    add(tokens) {
      mask.forEach((row) => row.push(1))
      return passOver(tokens.map((token) => [token ?? padId]))
    },
    async reorder(parents) {
      const changed = [...parents.keys()].filter((row) => parents[row] !== row)
      if (changed.length === 0) return
      const { device } = engine
      const set = engine.workingSet({ probes: 1, batch: prompts.length, tokens: 1, keys: capacity })
      const { buffers, cache } = set.lanes[lane]!
      // Any buffer of the right width is free between passes; its rows are room for some positions
      // of every text at a time. Those of the prompts are the same in parent and child.
      const spare = [...buffers.values()].find(({ cols }) => cols === hidden)!
      const step = Math.floor(spare.rows / changed.length)
      for (let first = longest; first < past; first += step) {
        const count = Math.min(step, past - first)
        const places = (row: (changed: number) => number) =>
          Uint32Array.from({ length: changed.length * count }, (_, i) => {
            const position = prefixTokens + first + (i % count)
            return row(changed[Math.floor(i / count)]!) * cache!.capacity + position
          })
        const [from, to] = [places((row) => parents[row]!), places((row) => row)]
        for (const kept of [...cache!.keys, ...cache!.values]) {
          await device.gatherRows(kept, from, spare)
          await device.scatterRows(spare, to, kept)
        }
      }
    },
  }
}
