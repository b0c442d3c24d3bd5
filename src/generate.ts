// Continues prompts token by token: greedy, or sampled with temperature, top-k and top-p. The prompts
// are one pass of the weights; every new token is another for the whole batch, over one row of each
// sequence: keys and values of earlier positions stay on the device.

import type { Tile } from './device/device.ts'
import type { Engine } from './engine.ts'
import type { Probe } from './methods/method.ts'
import { noiseKey, threefry2x32 } from './noise/threefry.ts'
import { UserError } from './errors.ts'
import { forward } from './run.ts'

export interface GenerateOptions {
  readonly maxNewTokens: number
  /** 0: greedy. */
  readonly temperature: number
  /** Keep the k most probable tokens; 0: all. */
  readonly topK: number
  /** Keep the smallest set of probability >= p; 1: all. */
  readonly topP: number
  readonly seed: number
  readonly padId: number
  readonly eosId: number
  /** Further tokens that end a text, and are left out like EOS. */
  readonly stopIds?: readonly number[]
  /** One probe to see the weights through; otherwise as they are. */
  readonly probe?: Probe
  /** Called with the new token of each prompt; null for those that have ended. */
  readonly onToken?: (tokens: readonly (number | null)[]) => void
}

/** New token ids for each prompt, without the prompt, up to and without EOS. */
export async function generate(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const longest = Math.max(...prompts.map((p) => p.length))
  const { maxPositions, vocabSize } = engine.model
  if (longest + options.maxNewTokens > maxPositions) {
    throw new UserError(
      `a prompt of ${longest} tokens and ${options.maxNewTokens} new ones exceed the model's ${maxPositions} positions; lower --max-new-tokens or shorten the prompt`,
    )
  }
  const key = noiseKey(options.seed, 0, 'generate', 'sample')
  const made: number[][] = prompts.map(() => [])
  const ended = prompts.map(() => false)
  const mask = prompts.map((p) => [...Array<number>(longest - p.length).fill(0), ...p.map(() => 1)])
  let inputIds = prompts.map((p) => [
    ...Array<number>(longest - p.length).fill(options.padId),
    ...p,
  ])
  let past = 0
  for (let n = 0; n < options.maxNewTokens && ended.includes(false); n++) {
    const logits = await lastLogits(inputIds, past)
    past += inputIds[0]!.length
    const tokens = logits.map((row, b) => {
      if (ended[b]) return null
      const [word] = threefry2x32(key.k0, key.k1, n, b)
      const token = pick(row, options, word / 2 ** 32)
      ended[b] = token === options.eosId || !!options.stopIds?.includes(token)
      if (ended[b]) return null
      made[b]!.push(token)
      return token
    })
    options.onToken?.(tokens)
    // Ended sequences go on as padding that nobody reads.
    inputIds = tokens.map((token) => [token ?? options.padId])
    mask.forEach((row) => row.push(1))
  }
  return made

  /** Logits [V] of the last position of each sequence; `past` positions before these are cached. */
  async function lastLogits(ids: readonly number[][], past: number) {
    const T = ids[0]!.length
    const input = {
      inputIds: ids,
      attentionMask: mask.map((row) => row.slice(past)),
      seen: mask.map((row) => row.slice(0, past).reduce((sum, m) => sum + m, 0)),
    }
    const rows = Uint32Array.from(ids.keys(), (b) => b * T + T - 1)
    const all = ids.map(() => new Float32Array(vocabSize))
    const sink = (tile: Tile, data: Float32Array) =>
      all.forEach((row, b) => row.set(data.subarray(b * tile.rows, (b + 1) * tile.rows), tile.row0))
    const cached = { capacity: longest + options.maxNewTokens, past, mask }
    await forward(engine, input, options.probe ?? null, { kind: 'logits', rows, sink }, cached)
    return all
  }
}

/** One token id from logits [V]; `u` is uniform in [0, 1). */
export function pick(
  logits: Float32Array,
  { temperature, topK, topP }: Pick<GenerateOptions, 'temperature' | 'topK' | 'topP'>,
  u: number,
): number {
  if (temperature === 0) return logits.indexOf(logits.reduce((a, b) => Math.max(a, b)))
  const order = Uint32Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!)
  const kept = order.subarray(0, topK > 0 ? topK : order.length)
  const top = logits[kept[0]!]!
  const weights = Float64Array.from(kept, (id) => Math.exp((logits[id]! - top) / temperature))
  const total = weights.reduce((a, b) => a + b, 0)
  let [nucleus, size] = [0, 0]
  while (size < weights.length && nucleus < topP * total) nucleus += weights[size++]!
  let left = u * nucleus
  for (let i = 0; i < size; i++) if ((left -= weights[i]!) < 0) return kept[i]!
  return kept[size - 1]!
}
