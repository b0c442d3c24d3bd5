// Continues prompts token by token: greedy, sampled with temperature, top-k and top-p, or by beam
// search. The prompts are one pass of the weights; every new token is another for all texts, over one row of
// each (cached-texts.ts).

import { createSearch } from './beams.ts'
import type { Engine } from '../engine/engine.ts'
import { notFinite } from '../engine/finite.ts'
import { UserError } from '../util/errors.ts'
import type { Probes } from '../methods/method.ts'
import { noiseKey, threefry2x32 } from '../noise/threefry.ts'
import { forward } from '../engine/forward.ts'
import { passesFor, planThatFits } from '../engine/split.ts'
import { createTexts } from './cached-texts.ts'
import { minOf } from '../util/extremes.ts'

export interface GenerateOptions {
  readonly maxNewTokens: number
  /** One probe to see the weights through; otherwise as they are. */
  readonly probes?: Probes
  /** 0: greedy. */
  readonly temperature: number
  /** Keep the k most probable tokens; 0: all. */
  readonly topK: number
  /** Keep the smallest set of probability >= p; 1: all. */
  readonly topP: number
  readonly seed: number
  /** Tokens any of which ends a text, and is left out. */
  readonly eosIds: readonly number[]
  /** A text ends with the token that completes one of `strings`, which is kept (see cutAtStop). */
  readonly stop?: {
    readonly strings: readonly string[]
    readonly decode: (tokens: readonly number[]) => string
  }
  /** Texts that beam search keeps; 1 or absent: none, tokens are taken one by one. */
  readonly numBeams?: number
  /** Beam scores are divided by length^lengthPenalty; default 1, as Hugging Face's. */
  readonly lengthPenalty?: number
  /** Texts for each prompt: samples, or the best of the beams. Default 1. */
  readonly numReturnSequences?: number
  /** Called with the new token of each text (a beam's may be dropped); null where it has ended. */
  readonly onToken?: (tokens: readonly (number | null)[]) => void
}

/**
 * New token ids without the prompt, up to and without EOS: numReturnSequences texts of the first
 * prompt, then of the second, and so on.
 * @throws UserError for options that exclude each other, a prompt without tokens, more tokens than the
 *   model has positions; NotFiniteError for logits that are no numbers
 */
export async function generate(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const { numBeams = 1, numReturnSequences = 1, temperature } = options
  if (numBeams > 1 && temperature > 0) {
    throw new UserError('beam search does not sample: give either --num-beams or --temperature', {
      exitCode: 2,
    })
  }
  const most = numBeams === 1 && temperature > 0 ? Infinity : numBeams
  if (numReturnSequences > most) {
    throw new UserError(
      `--num-return-sequences ${numReturnSequences} needs as many --num-beams (now ${numBeams}), or a --temperature above 0`,
      { exitCode: 2 },
    )
  }
  checkPrompts(prompts)
  const copies = numBeams > 1 ? numBeams : numReturnSequences
  const rows = prompts.flatMap((prompt) => Array<readonly number[]>(copies).fill(prompt))
  return numBeams > 1 ? beamSearch(engine, rows, options) : tokenByToken(engine, rows, options)
}

/**
 * `generate` for any number of prompts, one text for each, without beams: as many at once as the budget holds
 * with their cache. The texts are those that `generate` makes.
 * @param onProgress called often with how many are done at least, a fraction
 */
export async function generateMany(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
  onProgress?: (done: number) => void,
): Promise<number[][]> {
  checkPrompts(prompts)
  const each = textsAtOnce(engine, prompts, options.maxNewTokens)
  const made: number[][] = []
  for (let first = 0; first < prompts.length; first += each) {
    const some = prompts.slice(first, first + each)
    let tokens = 0 // most texts are shorter than they may be: what is done is at least this
    const onToken: GenerateOptions['onToken'] = (taken) => {
      options.onToken?.(taken)
      onProgress?.(first + (some.length * ++tokens) / options.maxNewTokens)
    }
    for (const text of await tokenByToken(engine, some, { ...options, onToken })) made.push(text)
    onProgress?.(first + some.length)
  }
  return made
}

/** How many consecutive prompts go together, so that their texts and cache fit the budget wherever they begin. */
function textsAtOnce(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  maxNewTokens: number,
): number {
  const shapeOf = (some: typeof prompts) => createTexts(engine, some, maxNewTokens).shape
  const fit = (each: number) =>
    [...prompts.keys()].every((first) => {
      if (first % each !== 0) return true
      const shape = shapeOf(prompts.slice(first, first + each))
      return planThatFits(() => engine.planFor(shape).plan) !== null
    })
  let each = Math.ceil(prompts.length / passesFor(engine, shapeOf(prompts)))
  while (each > 1 && !fit(each)) each = Math.ceil(each / 2)
  return each
}

/** A pass needs a token to go on from, and attention one to look at. */
function checkPrompts(prompts: readonly (readonly number[])[]): void {
  const empty = prompts.findIndex((prompt) => prompt.length === 0)
  if (empty < 0) return
  const which = prompts.length > 1 ? `prompt ${empty + 1}` : 'the prompt'
  throw new UserError(
    `${which} is empty, and this model's tokenizer puts no token before a text: give it some text`,
  )
}

/** @throws NotFiniteError if the logits after a text that is to be read have anything but numbers */
function checkLogits(
  engine: Engine,
  logits: readonly (Float32Array | null)[],
  isRead: (text: number) => boolean,
) {
  const isFinite = (row: Float32Array | null) => row?.every((logit) => Number.isFinite(logit))
  if (logits.some((row, b) => isRead(b) && !isFinite(row))) throw notFinite(engine, 'the logits')
}

async function tokenByToken(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const texts = createTexts(engine, prompts, options.maxNewTokens)
  const { shape } = texts
  const made: (readonly number[])[] = prompts.map(() => [])
  const ended = prompts.map(() => false)
  let pass = texts.begin()
  for (let n = 0; n < options.maxNewTokens; n++) {
    await forward(engine, pass, options.probes ?? null, { shape })
    checkLogits(engine, pass.logits, (text) => !ended[text])
    const tokens = addTokens(n, pass.logits, made, ended, options)
    options.onToken?.(tokens)
    if (n + 1 === options.maxNewTokens || !ended.includes(false)) break
    pass = texts.add(tokens.map((token, text) => (ended[text] ? null : token)))
  }
  return made.map((text) => [...text])
}

/** Picks the n-th token of each text that has not ended; null for the others and for an EOS. */
function addTokens(
  n: number,
  logits: readonly (Float32Array | null)[],
  made: (readonly number[])[],
  ended: boolean[],
  options: GenerateOptions,
): (number | null)[] {
  const key = noiseKey(options.seed, 0, 'generate', 'sample')
  return logits.map((row, b) => {
    if (ended[b]) return null
    const [word] = threefry2x32(key.k0, key.k1, n, b)
    const token = pick(row!, options, word / 2 ** 32)
    const whole = finished([...made[b]!, token], options)
    const text = whole ?? [...made[b]!, token]
    const added = text.length > made[b]!.length
    made[b] = text
    ended[b] = whole !== null
    return added ? token : null
  })
}

/** Consecutive rows, numBeams of them, have the same prompt. */
async function beamSearch(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const { numBeams = 1, lengthPenalty = 1, numReturnSequences = 1, eosIds, stop } = options
  const texts = createTexts(engine, prompts, options.maxNewTokens)
  const { shape } = texts
  const searches = Array.from({ length: prompts.length / numBeams }, () =>
    createSearch({
      beams: numBeams,
      lengthPenalty,
      endings: eosIds.length + (stop?.strings.length ?? 0),
      finished: (tokens) => finished(tokens, options),
    }),
  )
  let pass = texts.begin()
  for (let n = 0; n < options.maxNewTokens; n++) {
    await forward(engine, pass, options.probes ?? null, { shape })
    const { logits } = pass
    checkLogits(engine, logits, (text) => !searches[Math.floor(text / numBeams)]!.done)
    const parents = [...prompts.keys()]
    const tokens: (number | null)[] = prompts.map(() => null)
    searches.forEach((search, i) => {
      if (search.done) return
      const first = i * numBeams
      const from = search.step(logits.slice(first, first + numBeams).map((row) => row!))
      if (search.done) return
      from.forEach((beam, j) => (parents[first + j] = first + beam))
      search.beams.forEach((beam, j) => (tokens[first + j] = beam.tokens.at(-1)!))
    })
    options.onToken?.(tokens)
    if (n + 1 === options.maxNewTokens || searches.every(({ done }) => done)) break
    texts.reorder(parents)
    pass = texts.add(tokens)
  }
  return searches.flatMap((search) =>
    search
      .best()
      .slice(0, numReturnSequences)
      .map((text) => [...text]),
  )
}

/** The text that the tokens end: without EOS, but with what completes a stop string; else null. */
function finished(tokens: readonly number[], options: GenerateOptions): readonly number[] | null {
  const { eosIds, stop } = options
  if (eosIds.includes(tokens.at(-1)!)) return tokens.slice(0, -1)
  const text = stop && stop.strings.length > 0 ? stop.decode(tokens) : ''
  return stop?.strings.some((string) => text.includes(string)) ? tokens : null
}

/** The text up to the first of the stop strings. */
export function trimAtStop(text: string, strings: readonly string[]): string {
  const places = strings.map((string) => text.indexOf(string)).filter((place) => place >= 0)
  return text.slice(0, minOf([text.length, ...places]))
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
