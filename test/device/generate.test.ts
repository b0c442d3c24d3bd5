// Generation with the key-value cache gives the tokens of full passes over the growing text, for
// ragged prompts, greedy, sampled and by beam search, OPT and GPT-2, on each device; memory is as
// planned. Beams are those of transformers, and of an exhaustive search.
// Alone: npx vitest run test/device/generate.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createSearch } from '../../src/generate/beams.ts'
import { createTexts } from '../../src/generate/cached-texts.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { trimAtStop, generate, pick, type GenerateOptions } from '../../src/generate/generate.ts'
import { noiseKey, threefry2x32 } from '../../src/noise/threefry.ts'
import { hereJson, TINY } from '../helpers/cli.ts'
import { openDevices } from '../helpers/devices.ts'
import { fixtureModel } from '../helpers/hashed.ts'
import { logitsAfter, openRun, type OpenDevice } from '../helpers/runs.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const PROMPTS = [[5, 17, 29], [40, 3, 8, 60, 2, 31], [9]]
const base: GenerateOptions = {
  maxNewTokens: 9,
  temperature: 0,
  topK: 0,
  topP: 1,
  seed: 3,
  eosIds: [],
}

/** Beam search over passes without a cache: all beams of all prompts. */
async function fullBeams(engine: Engine, options: GenerateOptions): Promise<number[][]> {
  const { numBeams: beams = 1, lengthPenalty = 1, eosIds, maxNewTokens } = options
  const made: number[][] = []
  for (const prompt of PROMPTS) {
    const finished = (tokens: readonly number[]) =>
      eosIds.includes(tokens.at(-1)!) ? tokens.slice(0, -1) : null
    const search = createSearch({ beams, lengthPenalty, endings: eosIds.length, finished })
    for (let n = 0; n < maxNewTokens && !search.done; n++) {
      const logits: Float32Array[] = []
      for (const { tokens } of search.beams) {
        logits.push(await logitsAfter(engine, [...prompt, ...tokens]))
      }
      search.step(logits)
    }
    made.push(...search.best().map((text) => [...text]))
  }
  return made
}

/** What scripts/make-beam-expectations.py writes. */
interface BeamCase {
  readonly layout: string
  readonly beams: number
  readonly length_penalty: number
  readonly eos: number
  readonly max_new_tokens: number
  readonly texts: readonly number[][]
}
const CASES = JSON.parse(readFileSync(join(FIXTURES, 'beams.json'), 'utf8')) as BeamCase[]
const BEAM_LAYOUTS = [...new Set(CASES.map(({ layout }) => layout))]

/** Token by token, each from a pass over one sequence alone. */
async function fullPasses(engine: Engine, options: GenerateOptions): Promise<number[][]> {
  const key = noiseKey(options.seed, 0, 'generate', 'sample')
  const made: number[][] = []
  for (const [b, prompt] of PROMPTS.entries()) {
    const text = [...prompt]
    for (let n = 0; n < options.maxNewTokens; n++) {
      const logits = await logitsAfter(engine, text)
      const token = pick(logits, options, threefry2x32(key.k0, key.k1, n, b)[0] / 2 ** 32)
      if (options.eosIds.includes(token)) break
      text.push(token)
    }
    made.push(text.slice(prompt.length))
  }
  return made
}

describe.each(openDevices())('on $name', (test) => {
  let on: OpenDevice
  beforeAll(async () => {
    on = { device: await test.open() }
  })
  afterAll(() => on?.device.close())

  it.each([
    'layouts/pre-norm-tied',
    'layouts/post-norm-proj',
    'layouts/f16',
    'gpt/gpt2-hub',
    'gpt/nanogpt',
    'decoders/mistral',
    'decoders/gemma2',
    'decoders/smollm3',
  ])('gives the same tokens with the cache as without: %s', async (layout) => {
    const engine = await openRun(on, await fixtureModel(layout), { folds: false })
    try {
      const greedy = await generate(engine, PROMPTS, base)
      expect(greedy).toEqual(await fullPasses(engine, base))
      expect(greedy.every((tokens) => tokens.length === base.maxNewTokens)).toBe(true)
      const sampled = { ...base, temperature: 0.9, topK: 20, topP: 0.95 }
      expect(await generate(engine, PROMPTS, sampled)).toEqual(await fullPasses(engine, sampled))
      const stop = { ...base, eosIds: [greedy[1]![3]!, greedy[0]![5]!] }
      const stopped = await generate(engine, PROMPTS, stop)
      expect(stopped).toEqual(await fullPasses(engine, stop))
      expect(stopped[1]!.length).toBeLessThan(4)
    } finally {
      await engine.close()
    }
  })

  it.each(BEAM_LAYOUTS)('finds the beams of transformers: %s', async (layout) => {
    const engine = await openRun(on, join(FIXTURES, layout), { folds: false })
    try {
      for (const expected of CASES.filter((each) => each.layout === layout)) {
        const options = {
          ...base,
          numBeams: expected.beams,
          numReturnSequences: expected.beams,
          lengthPenalty: expected.length_penalty,
          eosIds: expected.eos < 0 ? [] : [expected.eos],
          maxNewTokens: expected.max_new_tokens,
        }
        expect(await generate(engine, PROMPTS, options)).toEqual(expected.texts)
      }
    } finally {
      await engine.close()
    }
  })

  it.each(['layouts/post-norm-proj', 'gpt/nanogpt', 'decoders/qwen3'])(
    'finds the same beams with the cache as without: %s',
    async (layout) => {
      const engine = await openRun(on, await fixtureModel(layout), { folds: false })
      try {
        const free = { ...base, maxNewTokens: 7, numBeams: 3, numReturnSequences: 3 }
        const made = await generate(engine, PROMPTS, free)
        expect(made).toEqual(await fullBeams(engine, free))
        const [one, other] = [made[4]![2]!, made[0]![3]!]
        for (const eosIds of [[one], [other, one]]) {
          const ending = { ...free, eosIds, lengthPenalty: 0.5 }
          expect(await generate(engine, PROMPTS, ending)).toEqual(await fullBeams(engine, ending))
        }
      } finally {
        await engine.close()
      }
    },
  )

  it('ends a text at a stop string, greedily and in beams', async () => {
    const engine = await openRun(on, join(FIXTURES, 'layouts/post-norm-proj'), { folds: false })
    const decode = (tokens: readonly number[]) => tokens.map((id) => `<${id}>`).join('')
    try {
      for (const numBeams of [1, 3]) {
        const options = { ...base, numBeams }
        const free = await generate(engine, PROMPTS, options)
        // It spans two tokens of the first text.
        const [first, second] = free[0]!.slice(2, 4)
        const strings = ['nowhere', `${first}><${second}`]
        const stopped = await generate(engine, PROMPTS, { ...options, stop: { strings, decode } })
        const text = decode(stopped[0]!)
        if (numBeams === 1) {
          expect(stopped[0]).toEqual(free[0]!.slice(0, 4))
          expect(trimAtStop(text, strings)).toBe(`${decode(free[0]!.slice(0, 2))}<`)
        }
        for (const tokens of stopped) {
          const before = decode(tokens.slice(0, -1))
          expect(strings.some((each) => before.includes(each))).toBe(false)
        }
      }
    } finally {
      await engine.close()
    }
  })

  it('returns several samples, and refuses what makes no sense', async () => {
    const engine = await openRun(on, join(FIXTURES, 'layouts/pre-norm-tied'), { folds: false })
    try {
      const sampled = { ...base, temperature: 1, numReturnSequences: 2 }
      const made = await generate(engine, PROMPTS, sampled)
      expect(made.length).toBe(6)
      expect(made[0]).not.toEqual(made[1])
      const refused = (options: Partial<GenerateOptions>, message: RegExp) =>
        expect(generate(engine, PROMPTS, { ...base, ...options })).rejects.toThrow(message)
      await refused({ numReturnSequences: 2 }, /--num-return-sequences 2 needs/)
      await refused({ numBeams: 2, numReturnSequences: 3 }, /needs as many --num-beams \(now 2\)/)
      await refused({ numBeams: 2, temperature: 1 }, /either --num-beams or --temperature/)
    } finally {
      await engine.close()
    }
  })

  it('holds what the plan says, cache included, and is refused without room for it', async () => {
    const device = await test.open()
    try {
      const fresh = { device }
      const dir = join(FIXTURES, 'layouts/pre-norm-tied')
      const engine = await openRun(fresh, dir, { folds: false })
      await generate(engine, PROMPTS, base)
      const { plan } = engine.workingSet(createTexts(engine, PROMPTS, base.maxNewTokens).shape)
      expect(device.ledger.peak().totalBytes).toBe(plan.peakBytes)
      await engine.close()
      const small = await openRun(fresh, dir, { folds: false, budgetBytes: plan.peakBytes / 2 })
      await expect(generate(small, PROMPTS, base)).rejects.toThrow(/--memory .* is too small/)
      await small.close()
    } finally {
      await device.close()
    }
    expect(device.ledger.total()).toBe(0)
  })
})

describe('zo2 generate', () => {
  const ask = (...more: string[]) =>
    hereJson([
      'generate',
      TINY,
      '--device',
      'cpu',
      '--prompt',
      'The ship',
      'A man',
      '--max-new-tokens',
      '8',
      ...more,
    ])
  const texts = async (...more: string[]) => (await ask(...more))['texts'] as string[]

  it('searches with beams, returns several texts, and stops before a text', async () => {
    const beams = await texts('--num-beams', '3', '--num-return-sequences', '2')
    expect(beams.length).toBe(4)
    expect(new Set(beams).size).toBe(4)
    expect(await texts('--num_beams', '3', '--length_penalty', '1')).toEqual([beams[0], beams[2]])
    const [free] = await texts()
    const stop = free!.slice(5, 8)
    const [stopped] = await texts('--stop', stop, 'nowhere to be found')
    expect(stopped).toBe(free!.slice(0, free!.indexOf(stop)))
    await expect(ask('--stop', '')).rejects.toThrow('--stop: expected a text that is not empty')
  })
})

describe('beam search', () => {
  /** Logits after a text of tokens below 5: any fixed function. */
  const logits = (tokens: readonly number[]) =>
    Float32Array.from(
      { length: 5 },
      (_, id) => 2 * Math.sin(tokens.reduce((h, t) => 3 * h + t + 1, id * 7.3)),
    )
  const logSoftmax = (row: Float32Array) => {
    const norm = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
    return [...row].map((x) => x - norm)
  }
  const run = (beams: number, lengthPenalty: number, eos: number, steps: number) => {
    const finished = (tokens: readonly number[]) =>
      tokens.at(-1) === eos ? tokens.slice(0, -1) : null
    const search = createSearch({ beams, lengthPenalty, endings: 1, finished })
    for (let n = 0; n < steps && !search.done; n++) {
      search.step(search.beams.map(({ tokens }) => logits(tokens)))
    }
    return search.best()
  }

  it.each([
    [1, -1],
    [0, 4],
    [1, 4],
    [2, 4],
    [-0.5, 2],
  ])(
    'with beams for all texts is an exhaustive search, length penalty %d, end %i',
    (penalty, eos) => {
      const steps = 4
      const all: { text: number[]; score: number }[] = []
      const grow = (tokens: number[], sum: number) => {
        const ended = tokens.at(-1) === eos
        if (ended || tokens.length === steps) {
          const score = sum / tokens.length ** penalty
          all.push({ text: ended ? tokens.slice(0, -1) : tokens, score })
          return
        }
        logSoftmax(logits(tokens)).forEach((lp, id) => grow([...tokens, id], sum + lp))
      }
      grow([], 0)
      all.sort((a, b) => b.score - a.score)
      const found = run(5 ** steps, penalty, eos, steps)
      expect(found.slice(0, 20)).toEqual(all.slice(0, 20).map(({ text }) => text))
    },
  )

  it('with one beam is greedy search', () => {
    const greedy: number[] = []
    for (let n = 0; n < 6; n++) {
      const row = logits(greedy)
      greedy.push(row.indexOf(Math.max(...row)))
    }
    expect(run(1, 1, -1, 6)).toEqual([greedy])
  })
})
