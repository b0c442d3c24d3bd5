// The best evaluation of a run: which it is, what waiting for it does, and what the model is left with.
// Alone: npx vitest run test/runs/best-evaluation.test.ts

import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { bestOf, withoutImprovement } from '../../src/run/best.ts'
import { parseConfig } from '../../src/config/options.ts'
import { finetune } from '../../src/train/finetune.ts'
import { collateExamples, EarlyStoppingCallback, fromPretrained, zoInit } from '../../src/index.ts'
import { silent } from '../../src/util/console.ts'
import { here, TINY } from '../helpers/cli.ts'

const NEVER = new AbortController().signal
import {
  folder,
  home,
  journal,
  lines,
  rejection,
  train,
  trainer,
  weights,
} from '../helpers/trainer.ts'

describe('the best evaluation', () => {
  const at = (...losses: number[]) => losses.map((loss, step) => ({ step, loss, f1: -loss }))
  const loss = { metric: 'loss', greaterIsBetter: false }

  it('is the first of equals, and no NaN', () => {
    expect(bestOf(at(3, 2, 2, 4), loss)).toEqual({ step: 1, value: 2 })
    expect(bestOf(at(Infinity, NaN, 2), loss)!.step).toBe(2)
    expect(bestOf(at(NaN, 2), loss)).toEqual({ step: 1, value: 2 })
    expect(bestOf(at(3, 2), { metric: 'f1', greaterIsBetter: true })!.step).toBe(1)
    expect(bestOf([], loss)).toBeNull()
    expect(() => bestOf(at(1), { metric: 'bleu', greaterIsBetter: true })).toThrow(
      /bleu: evaluations have no such figure; they have loss, f1/,
    )
  })

  it('is waited for as in Hugging Face', () => {
    expect(withoutImprovement(at(3, 2, 2.5, 2.4), loss, 0)).toBe(2)
    expect(withoutImprovement(at(3, 2.95, 2.9, 2.5), loss, 0.1)).toBe(0)
    expect(withoutImprovement(at(3, 2.95, 2.9), loss, 0.1)).toBe(2)
    expect(withoutImprovement(at(NaN, NaN), loss, 0)).toBe(2)
  })

  it('is what the model is left with, and stops a run that finds no other', async () => {
    // So large a rate that every step makes it worse.
    const args = { learningRate: 30, evalSteps: 1, evalOnStart: true, maxSteps: 6 }
    const early = trainer(
      { ...args, loadBestModelAtEnd: true, metricForBestModel: 'eval_loss' },
      { callbacks: [new EarlyStoppingCallback({ earlyStoppingPatience: 2 })] },
    )
    const output = await early.train()
    expect(output).toMatchObject({ globalStep: 2, bestStep: 0, modelStep: 0, stoppedEarly: true })
    expect((await early.evaluate())['eval_loss']).toBe(output.bestMetric)
    await early.saveModel()
    // The same from the command line, with the run cut in between.
    const dir = folder()
    const config = parseConfig({
      device: 'cpu',
      threads: 1,
      train: join(home, 'train.jsonl'),
      maxLength: 16,
      evalFile: join(home, 'train.jsonl'),
      evalSamples: 3,
      batchSize: 2,
      lr: 30,
      evalSteps: 1,
      loadBestModelAtEnd: true,
      earlyStoppingPatience: 2,
      outputDir: dir,
    })
    await finetune(TINY, { ...config, steps: 1 }, silent, NEVER)
    const summary = await finetune(TINY, { ...config, steps: 6, resume: true }, silent, NEVER)
    expect(summary).toMatchObject({ steps: 2, bestStep: 0, modelStep: 0, stoppedEarly: true })
    expect(journal(dir)).toEqual(journal(early.dir))
    expect(lines(dir, 'evals.jsonl')).toEqual(lines(early.dir, 'evals.jsonl'))
    expect(weights(join(dir, 'model')).equals(weights(join(early.dir, 'model')))).toBe(true)
  })

  it('is asked for by flags', async () => {
    const dir = folder()
    const args = [
      'finetune',
      TINY,
      '--device',
      'cpu',
      '--train',
      join(home, 'train.jsonl'),
      '--eval-file',
      join(home, 'train.jsonl'),
      '--max-length',
      '16',
      '--batch_size',
      '2',
      '--lr',
      '2e-3',
    ]
    const flags = [
      '--load_best_model_at_end',
      '--early-stopping-patience',
      '1',
      '--eval-on-start',
      'no',
      '--eval-steps',
      '2',
      '--save-steps',
      '2',
      '--save-total-limit',
      '1',
      '--metric_for_best_model',
      'perplexity',
    ]
    const { code, stderr } = await here([...args, ...flags, '--steps', '9', '--output-dir', dir])
    expect(code, stderr).toBe(0)
    expect(stderr).toMatch(
      /stopping early: 1 evaluation without a better perplexity than .* at step/,
    )
    const evaluations = lines(dir, 'evals.jsonl')
    const best = bestOf(evaluations as never, { metric: 'perplexity', greaterIsBetter: false })!
    expect(evaluations[0]!['step']).toBe(2)
    expect(journal(dir).length).toBe(best.step + 2)
    expect(readdirSync(dir).filter((name) => name.startsWith('checkpoint'))).toEqual([
      `checkpoint-${best.step + 2}`,
    ])
    const scored = await fromPretrained(join(dir, 'model'), { device: 'cpu', threads: 1 })
    const zo = await zoInit(scored)
    const { perplexity } = await zo.evaluate([collateExamples(train, { padId: 1, padTo: 'right' })])
    expect(perplexity).toBeCloseTo(best.value, 2)
    await scored.close()
  })

  it('in the middle of a run has the weights of a run that ended there', async () => {
    const scores = [1, 5, 2, 0]
    const computeMetrics = () => ({ eval_score: scores.shift()! })
    // Its own checkpoint spares replaying the steps before.
    const saves = { saveSteps: 1, saveTotalLimit: 5 }
    const args = { evalSteps: 1, loadBestModelAtEnd: true, metricForBestModel: 'score', ...saves }
    const best = trainer(args, { computeMetrics })
    expect(await best.train()).toMatchObject({
      globalStep: 4,
      bestStep: 2,
      modelStep: 2,
      bestMetric: 5,
    })
    await best.saveModel()
    const short = trainer({ maxSteps: 2 })
    await short.train()
    await short.saveModel()
    expect(weights(join(best.dir, 'model')).equals(weights(join(short.dir, 'model')))).toBe(true)
    expect(lines(best.dir, 'evals.jsonl').map((line) => line['score'])).toEqual([1, 5, 2, 0])
  })

  it('cannot be had without evaluations', async () => {
    expect(await rejection(trainer({ loadBestModelAtEnd: true }).train())).toMatch(
      /give evalStrategy/,
    )
    const none = trainer({ evalStrategy: 'epoch' }, { evalDataset: [] })
    expect(await rejection(none.train())).toBe(
      'evalStrategy needs an evalDataset; found an empty one',
    )
    const given = { train: 'x', outputDir: 'y' }
    const start = async (more: object) =>
      finetune(TINY, parseConfig({ ...given, ...more }, 'finetune'), silent, NEVER)
    const usage = (more: object) => rejection(start(more))
    expect(await usage({ earlyStoppingPatience: 2, evalFile: 'z' })).toMatch(
      /needs --eval-steps or --eval-strategy beside it/,
    )
    expect(await usage({ loadBestModelAtEnd: true })).toMatch(
      /needs --eval-file or --task beside it/,
    )
    expect(await usage({ greaterIsBetter: true })).toMatch(/needs --load-best-model-at-end/)
    expect(await usage({ earlyStoppingThreshold: 1 })).toMatch(/needs --early-stopping-patience/)
    expect(() => new EarlyStoppingCallback({ earlyStoppingPatience: 0 })).toThrow(/at least 1/)
  })
})
