// ZOTrainer: the same run as a loop of one's own and as `zo2 finetune`, and callbacks. The best evaluation, and
// objectives and metrics of a program's own: best-evaluation.test.ts, trainer-objectives.test.ts.
// Alone: npx vitest run test/runs/zo-trainer.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../src/config/options.ts'
import { finetune } from '../../src/train/finetune.ts'
import {
  collateExamples,
  dataLoader,
  TrainingArguments,
  zoInit,
  type BatchInput,
  type JournalEntry,
  type TrainerCallback,
} from '../../src/index.ts'
import { silent } from '../../src/util/console.ts'
import { TINY } from '../helpers/cli.ts'

const NEVER = new AbortController().signal
import {
  folder,
  home,
  journal,
  model,
  rejection,
  SMALL,
  train,
  trainer,
  weights,
} from '../helpers/trainer.ts'

describe('a loop of one’s own and the trainer', () => {
  it.each([
    ['mezo-sgd', { replayWindow: 2 }, {}],
    ['lozo-m', { window: 2, foldWindows: 1 }, { gradientAccumulationSteps: 2 }],
  ] as const)('make the same run with %s', async (method, options, more) => {
    const common = { method, ...options, seed: 3, eps: 1e-3, weightDecay: 0.01 }
    const own = trainer({ ...common, ...more, lrSchedulerType: 'linear' })
    await own.train()
    await own.saveModel()

    const zo = await zoInit(model, common)
    const entries: JournalEntry[] = []
    const accumulate = 'gradientAccumulationSteps' in more ? 2 : 1
    const loader = dataLoader(train, { batchSize: 2, seed: 3, batches: 4 * accumulate })
    let batches: BatchInput[] = []
    for await (const batch of loader) {
      batches.push(batch)
      if (batches.length < accumulate) continue
      zo.lr = SMALL.learningRate * (1 - entries.length / 4)
      entries.push((await zo.step(batches)).entry)
      batches = []
    }
    expect(entries).toEqual(journal(own.dir))
    expect(new Set(entries.map((entry) => entry.loss_plus)).size).toBe(4)
    await zo.save(join(own.dir, 'loop'))
    expect(weights(join(own.dir, 'loop')).equals(weights(join(own.dir, 'model')))).toBe(true)
  })

  it('make the run of zo2 finetune', async () => {
    const own = trainer()
    const output = await own.train()
    await own.saveModel()
    const dir = folder()
    const config = parseConfig({
      device: 'cpu',
      threads: 1,
      train: join(home, 'train.jsonl'),
      maxLength: 16,
      batchSize: 2,
      steps: 4,
      lr: 1e-3,
      outputDir: dir,
    })
    await finetune(TINY, config, silent, NEVER)
    expect(journal(dir)).toEqual(journal(own.dir))
    expect(weights(join(dir, 'model')).equals(weights(join(own.dir, 'model')))).toBe(true)
    const mean = journal(dir).reduce((sum, e) => sum + (e.loss_plus! + e.loss_minus!) / 8, 0)
    expect(output).toMatchObject({ globalStep: 4, modelStep: 4, stopped: false })
    expect(output.trainingLoss).toBeCloseTo(mean, 12)
  })

  it.each([{}, { seed: 8 }])('see the same batches with %j', async (seed) => {
    const seen = [trainer(seed).getTrainDataloader(), dataLoader(train, { batchSize: 2, ...seed })]
    for (let i = 0; i < 6; i++) {
      const [a, b] = [(await seen[0]!.next()).value!, (await seen[1]!.next()).value!]
      expect(a.labels).toEqual(b.labels)
      expect(a.attentionMask).toEqual(b.attentionMask)
    }
  })

  it('goes on after an end in between as if there had been none', async () => {
    const whole = trainer({ saveSteps: 2 })
    await whole.train()
    await whole.saveModel()
    const controller = new AbortController()
    const onStepEnd: TrainerCallback['onStepEnd'] = (_args, state) => {
      if (state.globalStep === 3) controller.abort()
    }
    const options = { signal: controller.signal, callbacks: [{ onStepEnd }] }
    const cut = trainer({ saveSteps: 2 }, options)
    expect(await cut.train()).toMatchObject({ globalStep: 3, stopped: true })
    expect(await rejection(cut.train())).toMatch(/holds a run already/)
    const again = trainer({ saveSteps: 2, outputDir: cut.dir })
    expect(await again.train({ resumeFromCheckpoint: true })).toMatchObject({ globalStep: 4 })
    await again.saveModel()
    expect(journal(cut.dir)).toEqual(journal(whole.dir))
    expect(weights(join(cut.dir, 'model')).equals(weights(join(whole.dir, 'model')))).toBe(true)
    const other = trainer({ outputDir: cut.dir, learningRate: 1 })
    expect(await rejection(other.train({ resumeFromCheckpoint: cut.dir }))).toMatch(/--lr 0.001/)
    expect(await rejection(other.train({ resumeFromCheckpoint: '/elsewhere' }))).toMatch(
      /own folder/,
    )
  })
})

describe('callbacks', () => {
  it('are told of everything, in order, and may ask for it', async () => {
    const told: string[] = []
    const tell =
      (name: string): NonNullable<TrainerCallback['onStepEnd']> =>
      (_args, state, control, details) => {
        const about = Object.keys(details.metrics ?? details.logs ?? {}).includes('eval_loss')
        told.push(`${name} ${state.globalStep}${about ? ' eval_loss' : ''}`)
        if (name === 'stepEnd' && state.globalStep === 1) control.shouldSave = true
        if (name === 'stepEnd' && state.globalStep === 3) control.shouldTrainingStop = true
      }
    const callback: TrainerCallback<TrainingArguments> = {
      onTrainBegin: tell('begin'),
      onStepBegin: tell('stepBegin'),
      onStepEnd: tell('stepEnd'),
      onLog: tell('log'),
      onEvaluate: tell('evaluate'),
      onSave: tell('save'),
      onTrainEnd: (args, state, control) => {
        told.push(`end ${args.maxSteps} ${state.epoch.toFixed(3)} ${control.shouldTrainingStop}`)
      },
    }
    const own = trainer({ evalStrategy: 'steps', evalSteps: 2, evalOnStart: true })
    own.addCallback(callback)
    own.addCallback({ onStepEnd: () => Promise.reject(new Error('removed')) })
    own.removeCallback(own['callbacks'].at(-1)!)
    expect(await own.train()).toMatchObject({ globalStep: 3, stoppedEarly: true, stopped: false })
    expect(told).toEqual([
      ...['begin 0', 'evaluate 0 eval_loss', 'stepBegin 0', 'stepEnd 1', 'log 1', 'save 1'],
      ...['stepBegin 1', 'stepEnd 2', 'evaluate 2 eval_loss', 'stepBegin 2', 'stepEnd 3'],
      `end 4 ${((3 * 2) / 9).toFixed(3)} true`,
    ])
    expect(own.state!.evaluations.map(({ step }) => step)).toEqual([0, 2])
    expect(own.state!.logHistory.map(({ step }) => step)).toEqual([0, 1, 2])
    expect(readFileSync(join(own.dir, 'checkpoint-1/config.json'), 'utf8')).toContain('opt')
  })

  it('hooks stand around the steps of both', async () => {
    const seen: string[] = []
    const hooks = {
      beforeStep: (step: number, batches: readonly BatchInput[]) =>
        void seen.push(`before ${step} ${batches[0]!.inputIds.length}`),
      afterStep: (entry: JournalEntry) => void seen.push(`after ${entry.step}`),
    }
    await trainer({ maxSteps: 2 }, hooks).train()
    const zo = await zoInit(model, { lr: 1e-3, ...hooks })
    await zo.step(collateExamples(train.slice(0, 2), { padId: 1, padTo: 'right' }))
    const steps = ['before 0 2', 'after 0', 'before 1 2', 'after 1']
    expect(seen).toEqual([...steps, 'before 0 2', 'after 0'])
    await zoInit(model)
    const ended = zo.step(collateExamples(train, { padId: 1, padTo: 'right' }))
    expect(await rejection(ended)).toMatch(/ended when another one began/)
  })
})
