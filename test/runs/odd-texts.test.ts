// What a model says where there is nothing to say: weights that are no numbers, prompts without a token,
// texts that end at one of several ids. In this process, on the cpu device.
// Alone: npx vitest run test/runs/odd-texts.test.ts

import { cpSync, mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import type { Example } from '../../src/data/types.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { NotFiniteError } from '../../src/engine/finite.ts'
import { generate, generateMany, type GenerateOptions } from '../../src/generate/generate.ts'
import { sample } from '../../src/generate/sample.ts'
import { checkedEvaluation, evaluateExamples } from '../../src/train/evaluate.ts'
import { objectiveOf } from '../../src/train/objective.ts'
import { fromPretrained } from '../../src/index.ts'
import { UserError } from '../../src/util/errors.ts'
import { here } from '../helpers/cli.ts'
import { editSafetensors } from '../helpers/edit-safetensors.ts'
import { openRun, tempFolder, totalsOf, type OpenDevice } from '../helpers/runs.ts'

const root = tempFolder()
const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const TINY = join(FIXTURES, 'tiny-opt')
const OPT = join(FIXTURES, 'layouts/pre-norm-tied')
const greedy: GenerateOptions = {
  maxNewTokens: 6,
  temperature: 0,
  topK: 0,
  topP: 1,
  seed: 3,
  eosIds: [],
}

/** A copy of a fixture whose last norm is the number. */
function spoilt(source: string, value: number): string {
  const dir = mkdtempSync(join(root, 'model-'))
  cpSync(source, dir, { recursive: true })
  editSafetensors(join(dir, 'model.safetensors'), (name) =>
    name.endsWith('decoder.final_layer_norm.bias') ? Float32Array.of(value) : undefined,
  )
  return dir
}

let on: OpenDevice
beforeAll(async () => {
  on = { device: await openCpu({ threads: 1 }) }
})
afterAll(() => on.device.close())

async function withRun<T>(dir: string, use: (engine: Engine) => Promise<T>, options = {}) {
  const engine = await openRun(on, dir, { folds: false, ...options })
  try {
    return await use(engine)
  } finally {
    await engine.close()
  }
}

async function sentence(work: () => Promise<unknown>): Promise<string> {
  const error = await work().then(
    () => null,
    (reason: unknown) => reason,
  )
  if (!(error instanceof UserError)) throw new Error('not refused', { cause: error })
  expect(error.message).toMatch(/^[^\n]{10,400}$/)
  return error.message
}

describe('weights that are no numbers', () => {
  const NOT_FINITE = /^the logits of .*model-\w+ are not finite; its weights hold NaN or infinite/

  it.each([NaN, Infinity, -Infinity])('make no text: %s', async (value) => {
    await withRun(spoilt(OPT, value), async (engine) => {
      const prompts = [[5, 17, 29], [9]]
      for (const options of [{}, { temperature: 0.8 }, { numBeams: 2 }]) {
        const made = () => generate(engine, prompts, { ...greedy, ...options })
        expect(await sentence(made)).toMatch(NOT_FINITE)
      }
      expect(await sentence(() => generateMany(engine, [...prompts, ...prompts], greedy))).toMatch(
        NOT_FINITE,
      )
      const sampling = { samples: 2, maxNewTokens: 3, temperature: 1, topK: 5, seed: 1 }
      expect(await sentence(() => sample(engine, [5, 6], sampling))).toMatch(NOT_FINITE)
    })
  })

  it('make no figures, and no score of answers', async () => {
    const tokenizer = await loadTokenizer(TINY)
    const inputIds = tokenizer.encode('It was the best')
    const labels = [-100, ...inputIds.slice(1)]
    const example: Example = { inputIds, labels, generation: { prompt: inputIds, golds: ['a'] } }
    const answers = { tokenizer: () => Promise.resolve(tokenizer), maxNewTokens: 4 }
    const options = { answers }
    await withRun(spoilt(TINY, NaN), async (engine) => {
      const scored = await evaluateExamples(engine, [example], options)
      expect(scored).toMatchObject({ loss: NaN, f1: NaN, exact_match: NaN })
      expect(() => checkedEvaluation(engine, scored)).toThrow(NotFiniteError)
      // A step by answers is skipped as one by losses is.
      const f1 = objectiveOf(
        { objective: 'f1', trainAsClassification: false, maxNewTokens: 4 },
        tokenizer,
      )
      const batch = { inputIds: [inputIds], labels: [labels], attentionMask: [labels.map(() => 1)] }
      const probes = { step: 0, list: engine.options.estimator.probes(1e-3) }
      const totals = await totalsOf(engine, { ...batch, examples: [example] }, probes, f1)
      expect(totals.map(({ sum, count }) => sum / count)).toEqual([NaN, NaN])
    })
    await withRun(TINY, async (engine) => {
      const scored = await evaluateExamples(engine, [example], options)
      expect(checkedEvaluation(engine, scored)).toBe(scored)
    })
  })

  it('name float16 as a cause where activations are kept in it', async () => {
    const run = (engine: Engine) => sentence(() => generate(engine, [[5]], greedy))
    expect(await withRun(spoilt(OPT, NaN), run, { activations: 'F16' })).toMatch(
      /not finite; its activations may overflow float16 \(try --activation-dtype float32\), or its/,
    )
  })

  it('end the commands with one sentence and exit code 1', async () => {
    const dir = spoilt(TINY, NaN)
    writeFileSync(join(dir, 'x.txt'), 'It was the best of times.')
    const cpu = ['--device', 'cpu', '--threads', '1', '--quiet', '--json']
    for (const args of [
      ['generate', dir, '--prompt', 'It was', '--max-new-tokens', '4', ...cpu],
      ['eval', dir, '--eval-file', join(dir, 'x.txt'), ...cpu],
    ]) {
      const ended = await here(args)
      expect(ended).toMatchObject({ code: 1, stdout: '' })
      expect(ended.stderr).toMatch(/^zo2: the logits of [^\n]+ are not finite; [^\n]+\n$/)
    }
  })
})

describe('a prompt without a token', () => {
  it('is refused, alone and beside others, before anything is made of it', async () => {
    await withRun(OPT, async (engine) => {
      let tokens = 0
      const options = { ...greedy, onToken: () => void tokens++ }
      const alone = /^the prompt is empty, and this model's tokenizer puts no token before a text/
      expect(await sentence(() => generate(engine, [[]], options))).toMatch(alone)
      expect(await sentence(() => generate(engine, [[5, 6], []], options))).toMatch(/^prompt 2 is/)
      const beams = { ...options, numBeams: 3, numReturnSequences: 3 }
      expect(await sentence(() => generate(engine, [[5], [7], []], beams))).toMatch(/^prompt 3 is/)
      const many = () => generateMany(engine, [[5], [], [6]], options)
      expect(await sentence(many)).toMatch(/^prompt 2 is empty/)
      expect(tokens).toBe(0)
    })
  })

  it('is BOS alone where the tokenizer adds it', async () => {
    const model = await fromPretrained(TINY, { device: 'cpu', threads: 1 })
    try {
      expect((await model.tokenizer()).encode('')).toEqual([2])
    } finally {
      await model.close()
    }
    const args = ['--prompt', '', '--max-new-tokens', '2', '--device', 'cpu', '--quiet', '--json']
    expect(await here(['generate', TINY, ...args])).toMatchObject({ code: 0 })
  })
})

describe('a text', () => {
  it('ends at any of the ids that generation_config.json lists', async () => {
    const dir = mkdtempSync(join(root, 'model-'))
    cpSync(TINY, dir, { recursive: true })
    const args = [
      '--prompt',
      'It was',
      '--max-new-tokens',
      '8',
      '--device',
      'cpu',
      '--quiet',
      '--json',
    ]
    const tokens = async () => {
      const { stdout } = await here(['generate', dir, ...args])
      return (JSON.parse(stdout) as { tokens: number[][] }).tokens[0]!
    }
    const free = await tokens()
    expect(free).toHaveLength(8)
    const place = free.findIndex((id, i) => i > 1 && free.indexOf(id) === i)
    const list = { eos_token_id: [4000, free[place]!, 2] }
    writeFileSync(join(dir, 'generation_config.json'), JSON.stringify(list))
    expect(await tokens()).toEqual(free.slice(0, place))
  })
})
