// Pre-training end to end on a tiny GPT: repeats, resumes and micro-batches, checkpoints, refusals. Its commands
// are in pretrain-commands.test.ts, data preparation itself in test/unit/prepare.test.ts.
// Alone: npx vitest run test/runs/pretrain.test.ts

import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../src/config/options.ts'
import { prepare } from '../../src/data/prepare.ts'
import { pretrain } from '../../src/train/pretrain.ts'
import { silent } from '../../src/util/console.ts'
import { here, ROOT } from '../helpers/cli.ts'
import { readSafetensors } from '../helpers/read-safetensors.ts'

import {
  CPU,
  data,
  folder,
  GPT,
  never,
  read,
  run,
  TEXT,
  type Options,
} from '../helpers/pretrain.ts'

const METHODS = {
  'mezo-sgd': { lr: 1e-2 },
  'lozo-m': { lr: 1e-2, window: 3 },
  kronzo: { lr: 1e-2, window: 3 },
}
const lines = (dir: string, name: string) =>
  read(dir, name)
    .toString()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, number>)
const loss = (entry: Record<string, number>) => entry['loss_plus']!

/** Everything that a run left which decides or shows what was learnt. */
const traces = (dir: string) => ({
  journal: read(dir, 'journal.jsonl').toString(),
  evals: read(dir, 'evals.jsonl').toString(),
  model: readSafetensors(read(dir, 'model', 'model.safetensors')),
  kept: readdirSync(dir).filter((name) => name.startsWith('ckpt-')),
})

describe('a pre-training run', () => {
  it.each(Object.entries(METHODS))(
    'of %s is repeated exactly, and resumed exactly wherever it stopped',
    async (method, rate) => {
      const options = { method, ...rate, steps: 8, evalSteps: 3, accumulate: 2, weightDecay: 0.1 }
      const [once, again] = ['once', 'again'].map((name) => join(folder, `${method}-${name}`))
      await run(once!, options)
      const cut = new AbortController()
      const line = (text: string) => {
        if (/^step 4\/8/.test(text)) cut.abort(new Error('stop'))
      }
      const part = { ...options, loggingSteps: 1 }
      const stopped = await run(again!, part, { ...silent, line }, cut.signal)
      expect([stopped.steps, stopped.stopped]).toEqual([4, true])
      const resumed = await run(again!, { ...options, initFrom: 'resume' })
      expect([resumed.steps, resumed.stopped]).toEqual([8, false])
      expect(traces(again!)).toEqual(traces(once!))
      expect(lines(once!, 'evals.jsonl').map(({ step }) => step)).toEqual([0, 3, 6, 8])
    },
  )

  it.each(Object.entries(METHODS))(
    'of %s takes two micro-batches of 8 as one batch of 16',
    async (method, rate) => {
      const options = { method, ...rate, steps: 4, saveModel: true }
      const [whole, parts] = ['whole', 'parts'].map((name) => join(folder, `${method}-${name}`))
      await run(whole!, { ...options, batchSize: 16 })
      await run(parts!, { ...options, batchSize: 8, accumulate: 2 })
      const other = lines(parts!, 'journal.jsonl')
      for (const [i, entry] of lines(whole!, 'journal.jsonl').entries()) {
        expect(Math.abs(loss(entry) - loss(other[i]!))).toBeLessThan(1e-5)
      }
      const tensors = traces(parts!).model
      for (const [name, { values }] of traces(whole!).model) {
        const [a, b] = [values, tensors.get(name)!.values]
        const apart = a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!)), 0)
        expect(apart, name).toBeLessThan(2e-4)
      }
    },
  )

  it('learns, and keeps the best checkpoint of its evaluations', async () => {
    const dir = join(folder, 'learns')
    const texts: string[] = []
    const report = { ...silent, line: (text: string) => void texts.push(text) }
    const options = { method: 'lozo', lr: 3e-2, lrSchedule: 'cosine', minLr: 1e-3, steps: 300 }
    const summary = await run(
      dir,
      { ...options, batchSize: 16, evalSteps: 100, evalIters: 4 },
      report,
    )
    const evaluations = lines(dir, 'evals.jsonl')
    const losses = evaluations.map((e) => e['loss']!)
    expect(losses[0]).toBeCloseTo(Math.log(14), 0)
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.2)
    const [{ train_loss, loss: val }] = evaluations as [{ train_loss: number; loss: number }]
    expect(texts).toContain(
      `step 0: train loss ${train_loss.toFixed(4)}, val loss ${val.toFixed(4)}`,
    )
    const best = evaluations.reduce((a, b) => (b['loss']! < a['loss']! ? b : a))['step']!
    expect(summary.bestStep).toBe(best)
    expect(traces(dir).kept).toEqual([`ckpt-${best}`])
    expect(JSON.parse(read(dir, `ckpt-${best}`, 'zo2.json').toString())).toEqual({
      step: best,
      val_loss: Math.min(...losses),
    })
    expect(lines(dir, 'journal.jsonl').at(-1)!['lr']).toBeCloseTo(1e-3, 5)
  })

  it('keeps every evaluation if asked to, the newest', async () => {
    const dir = join(folder, 'always')
    // A rate that ruins the model: nothing after step 0 is the best.
    const options = { method: 'mezo-sgd', lr: 10, steps: 2, evalSteps: 1, saveModel: false }
    await run(dir, options)
    expect(readdirSync(dir).filter((name) => name.startsWith('ckpt-'))).toEqual([])
    const kept = join(folder, 'always-kept')
    await run(kept, { ...options, alwaysSaveCheckpoint: true })
    expect(readdirSync(kept).filter((name) => name.startsWith('ckpt-'))).toEqual(['ckpt-2'])
  })

  it.each([
    ['gpt2-hub', 'a folder'],
    ['nanogpt-no-bias/ckpt.pt', "nanoGPT's file"],
  ])('starts from %s, %s', async (source) => {
    const dir = join(folder, `from-${source.replaceAll('/', '-')}`)
    const options = { dataset: data, batchSize: 2, maxLength: 8, evalIters: 1, outputDir: dir }
    const config = { ...CPU, ...options, initFrom: join(GPT, source), steps: 1, lr: 1e-3 }
    const summary = await pretrain(parseConfig(config), silent, never)
    expect(summary.steps).toBe(1)
    const again = await pretrain(parseConfig({ ...config, resume: true, steps: 2 }), silent, never)
    expect(again.steps).toBe(2)
  })
})

describe('refusals', () => {
  const small = () => ({ steps: 1, saveModel: false })

  it.each<[string, Options, RegExp]>([
    ['dropout', { dropout: 0.1 }, /^dropout: expected 0.*found 0.1/],
    ['data that is not there', { dataset: 'nowhere' }, /data.nowhere: no meta.json.*zo2 prepare/],
    ['examples', { train: 'x.jsonl' }, /^train is an option of .*; pretrain has no use for it/],
    ['options without data', { dataset: undefined }, /^--dataset is required/],
    ['heads that do not fit', { nHead: 3 }, /n_embd 16 is not a multiple of n_head 3/],
    ['a decay of two kinds', { decayLr: 'yes', lrSchedule: 'linear' }, /--decay-lr means.*cosine/],
    [
      'another shape than the model has',
      { initFrom: join(GPT, 'gpt2-hub'), nLayer: 7 },
      /--n-layer 7: gpt2-hub has 2; leave it out/,
    ],
    [
      'more positions than the model has',
      {
        initFrom: join(GPT, 'gpt2-hub'),
        nLayer: undefined,
        nHead: undefined,
        nEmbd: undefined,
        maxLength: 4096,
      },
      /--block-size 4096: .* positions/,
    ],
    ['a block longer than the text', { maxLength: 1000 }, /too few for a block size of 1000/],
  ])('%s', async (name, options, message) => {
    const dir = join(folder, `refused ${name}`)
    await expect(async () => run(dir, { ...small(), ...options })).rejects.toThrow(message)
  })

  it('a resumed run with other options, or other text', async () => {
    const dir = join(folder, 'resumed')
    await run(dir, { ...small(), lr: 1e-3 })
    const on = { ...small(), steps: 2, resume: true }
    await expect(run(dir, { ...on, lr: 2e-3 })).rejects.toThrow(/--lr 0.001, found 0.002/)
    await expect(run(dir, { ...on, lr: 1e-3, minLr: 1 })).rejects.toThrow(/--min-lr 0, found 1/)
    await expect(run(dir, { ...on, lr: 1e-3, nEmbd: 8 })).rejects.toThrow(/--n-embd 8: init has 16/)
    const other = join(folder, 'other-data')
    const file = join(folder, 'other.txt')
    writeFileSync(file, [...TEXT].reverse().join(''))
    await prepare('shakespeare_char', { inputs: [file], outputDir: other })
    await expect(run(dir, { ...on, lr: 1e-3, dataset: other })).rejects.toThrow(
      /other training data/,
    )
    await expect(run(dir, { ...small(), lr: 1e-3 })).rejects.toThrow(/holds a run already/)
  })

  it.each<[string[], number, RegExp]>([
    [['pretrain', 'config/train.py'], 2, /expected a \.yaml, \.toml or \.json file/],
    [['pretrain', 'config/nothing'], 2, /config.nothing\.yaml: cannot be read/],
    [['pretrain', '--dataset', 'x'], 2, /--output-dir \(or --out_dir\) is required/],
    [['pretrain', '--out_dir', 'x'], 2, /--dataset is required/],
    [['pretrain', '--compile=False'], 2, /unknown option/],
    [['prepare', 'wikitext'], 2, /shakespeare_char/],
    [['prepare', 'openwebtext'], 2, /openwebtext needs --input/],
    [['sample', '--out_dir', join(ROOT, 'test/nowhere')], 1, /no such folder/],
    [['sample', '--out_dir', join(ROOT, 'test')], 1, /no ckpt-<step>\/, model\/ or ckpt\.pt there/],
    [['sample', '--temperature', '-1'], 2, /--temperature: expected a number of at least 0/],
  ])('zo2 %s', async (command, expected, message) => {
    const { code, stderr } = await here(command, { cwd: folder })
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/internal error/)
    expect(code).toBe(expected)
  })
})
