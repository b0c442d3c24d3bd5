// ZOTrainer and TrainingArguments: the same run as a loop of one's own and as `zo2 finetune`, callbacks,
// the best model at the end, early stopping, objectives and metrics of a program's own.
// Alone: npx vitest run test/runs/zo-trainer.test.ts

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bestOf, withoutImprovement } from '../../src/run/best.ts'
import { parseConfig } from '../../src/config/options.ts'
import { finetune } from '../../src/train/finetune.ts'
import {
  collateExamples,
  dataLoader,
  EarlyStoppingCallback,
  fromPretrained,
  loadExamples,
  loadTask,
  TrainingArguments,
  zoInit,
  ZOTrainer,
  type BatchInput,
  type Example,
  type JournalEntry,
  type TrainerCallback,
  type TrainingArgumentsSpelled,
  type ZoModel,
  type ZOTrainerOptions,
} from '../../src/index.ts'
import { silent } from '../../src/util/console.ts'
import { here, ROOT, TINY } from '../helpers/cli.ts'
import { tempFolder } from '../helpers/runs.ts'

const NEVER = new AbortController().signal
const home = tempFolder()
const TEXTS = Array.from({ length: 9 }, (_, i) => ({
  prompt: `the ${'very '.repeat(i % 4)}old man`,
  completion: i % 2 ? ' went home' : ' sat by the sea',
}))

let model: ZoModel
let train: readonly Example[]
let held: readonly Example[]
beforeAll(async () => {
  model = await fromPretrained(TINY, { device: 'cpu', threads: 1 })
  writeFileSync(join(home, 'train.jsonl'), TEXTS.map((t) => JSON.stringify(t)).join('\n'))
  const tokenizer = await model.tokenizer()
  const { examples } = await loadExamples(join(home, 'train.jsonl'), tokenizer, { maxLength: 16 })
  ;[train, held] = [examples, examples.slice(0, 3)]
})
afterAll(() => model.close())

let runs = 0
const folder = () => join(home, `run-${runs++}`)
const SMALL = {
  perDeviceTrainBatchSize: 2,
  maxSteps: 4,
  learningRate: 1e-3,
  disableTqdm: true,
  reportTo: 'none',
}

function trainer(
  args: TrainingArgumentsSpelled = {},
  options: Partial<ZOTrainerOptions> = {},
): ZOTrainer & { dir: string } {
  const outputDir = folder()
  const merged = { ...SMALL, outputDir, ...args }
  const made = new ZOTrainer({
    model,
    args: merged,
    trainDataset: train,
    evalDataset: held,
    ...options,
  })
  return Object.assign(made, { dir: merged.outputDir })
}

const lines = (dir: string, file: string) =>
  readFileSync(join(dir, file), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, number>)
const journal = (dir: string) => lines(dir, 'journal.jsonl') as unknown as JournalEntry[]
const weights = (dir: string) => readFileSync(join(dir, 'model.safetensors'))
const rejection = (promise: Promise<unknown>) =>
  promise.then(
    () => 'nothing was wrong',
    (error: Error) => error.message,
  )

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
      /needs --eval-steps beside it/,
    )
    expect(await usage({ loadBestModelAtEnd: true })).toMatch(
      /needs --eval-file or --task beside it/,
    )
    expect(await usage({ greaterIsBetter: true })).toMatch(/needs --load-best-model-at-end/)
    expect(await usage({ earlyStoppingThreshold: 1 })).toMatch(/needs --early-stopping-patience/)
    expect(() => new EarlyStoppingCallback({ earlyStoppingPatience: 0 })).toThrow(/at least 1/)
  })
})

describe('metrics, collators, predictions', () => {
  it('computeMetrics sees the logits at labelled tokens', async () => {
    const losses: number[] = []
    const own = trainer(
      {},
      {
        preprocessLogitsForMetrics: (logits, labels) => {
          logits.forEach((row, i) => losses.push(crossEntropy(row, labels[i]!)))
          return logits.map((row) => row.indexOf(Math.max(...row)))
        },
        computeMetrics: ({ predictions, labelIds, inputs }) => {
          const right = labelIds.flatMap((labels, s) =>
            labels.map((label, i) => Number((predictions[s] as number[])[i] === label)),
          )
          return { right: right.reduce((a, b) => a + b) / right.length, inputs: inputs.length }
        },
      },
    )
    const scores = await own.evaluate(train)
    expect(Object.keys(scores).sort()).toEqual(
      ['eval_inputs', 'eval_loss', 'eval_perplexity', 'eval_right', 'eval_tokens'].sort(),
    )
    expect(scores['eval_inputs']).toBe(9)
    expect(losses.length).toBe(scores['eval_tokens'])
    expect(losses.reduce((a, b) => a + b) / losses.length).toBeCloseTo(scores['eval_loss']!, 4)
    const bad = (figures: object) =>
      trainer({}, { computeMetrics: () => figures as never }).evaluate()
    expect(await rejection(bad({ bleu: 'x' }))).toBe(
      'computeMetrics: bleu: expected a number, found x',
    )
    expect(await rejection(bad({ step: 1 }))).toMatch(/take another name/)
    const { labelIds } = await own.predict(train.slice(0, 1))
    expect(labelIds).toEqual([train[0]!.labels.filter((label) => label >= 0)])
  })

  it('dataCollator makes batches of anything', async () => {
    const words = ['a man', 'the sea', 'an old house', 'home']
    const tokenizer = await model.tokenizer()
    const dataCollator = (items: readonly string[]) => {
      const rows = items.map((text) => tokenizer.encode(text).concat(1, 1).slice(0, 4))
      return { inputIds: rows, labels: rows.map((row) => [-100, ...row.slice(1)]) }
    }
    const args = { ...SMALL, outputDir: folder(), evalSteps: 2, numTrainEpochs: 1, maxSteps: -1 }
    const own = new ZOTrainer({
      model,
      args,
      trainDataset: words,
      evalDataset: words,
      dataCollator,
    })
    expect(await own.train()).toMatchObject({ globalStep: 2 })
    expect(lines(own.args.outputDir, 'evals.jsonl')).toMatchObject([{ step: 2, tokens: 12 }])
    expect(await rejection(own.evaluate([]))).toMatch(/needs an evalDataset; found an empty one/)
  })
})

describe('objectives of a program', () => {
  const batch = () => collateExamples(train.slice(0, 4), { padId: 1, padTo: 'right' })
  const firstStep = async (options: Parameters<typeof zoInit>[1], own: BatchInput = batch()) =>
    (await (await zoInit(model, { lr: 1e-3, ...options })).step(own)).entry

  it('of losses and of logits agree with the built-in loss', async () => {
    const own = { ...batch(), labels: batch().labels.map((row) => firstLabel(row)) }
    const plain = await firstStep({}, own)
    const losses = await firstStep(
      { objective: { of: 'losses', score: (rows) => rows.map(([loss]) => loss!) } },
      own,
    )
    expect(losses).toEqual(plain)
    const logits = await firstStep(
      {
        objective: (rows, { labels }) =>
          rows.map(([row], b) =>
            crossEntropy(
              row!,
              labels[b]!.find((label) => label >= 0)!,
            ),
          ),
      },
      own,
    )
    expect(logits.loss_plus).toBeCloseTo(plain.loss_plus!, 5)
    expect(logits.projected_grad).toBeCloseTo(plain.projected_grad, 1)
  })

  it('of generated texts continue prompts, once for each probe', async () => {
    const texts: (readonly string[])[] = []
    const score = (generations: readonly string[]) => {
      texts.push(generations)
      return generations.map((text) => text.length)
    }
    const objective = { of: 'generations', score, maxNewTokens: 3 } as const
    const { loss_plus, loss_minus } = await firstStep({ objective })
    const lengths = texts.map((list) => list.reduce((sum, text) => sum + text.length, 0) / 4)
    expect([loss_plus, loss_minus]).toEqual(lengths)
    expect(Math.max(...lengths)).toBeGreaterThan(0)
    // A prompt alone needs no label.
    const inputIds = [[2, 9, 8]]
    await firstStep({ objective }, { inputIds, labels: [[-100, -100, -100]] })
    expect(texts.map((list) => list.length)).toEqual([4, 4, 1, 1])
  })

  it('by name compare options, which batches keep', async () => {
    const dataDir = join(ROOT, 'test/fixtures/tasks')
    const options = { dataDir, numTrain: 6, numDev: 2, numEval: 2, maxLength: 128 }
    const { train: copa, dev } = await loadTask(model, 'copa', options)
    const rows = collateExamples(copa.slice(0, 2), { padId: 1, padTo: 'right' }, { options: true })
    const { loss_plus } = await firstStep({ objective: 'accuracy' }, rows)
    expect([0, 0.5, 1]).toContain(loss_plus)
    const sentence = await rejection(firstStep({ objective: 'accuracy' }))
    expect(sentence).toBe(
      'the objective compares options, but the batch has none: collate examples with options',
    )
    expect(
      await rejection(firstStep({}, { ...rows, choices: [{ first: 0, count: 2, right: [2] }] })),
    ).toMatch(/choices\[0\]\.right/)
    const own = trainer(
      { maxSteps: 2, evalSteps: 2 },
      { trainDataset: copa, evalDataset: dev, trainAsClassification: true },
    )
    await own.train()
    expect(lines(own.dir, 'evals.jsonl')[0]).toHaveProperty('accuracy')
    expect(await rejection(trainer({}, { trainAsClassification: true }).train())).toMatch(
      /trainDataset\[0\] has none/,
    )
  })

  it('say what is wrong with them', async () => {
    const wrong = (objective: unknown) => rejection(firstStep({ objective } as never))
    expect(await wrong('bleu')).toMatch(/objective: expected loss, accuracy, f1, a function/)
    expect(await wrong({ of: 'words', score: () => [] })).toMatch(/objective.of: expected logits/)
    expect(await wrong({ of: 'losses' })).toMatch(/with a function as score/)
    expect(await wrong(() => [1])).toMatch(/must give 4 numbers.*found 1 of them/)
    expect(await wrong(() => 'x')).toMatch(/must give 4 numbers.*found x/)
    expect(
      await rejection(zoInit(model, { objective: 'f1', trainAsClassification: true })),
    ).toMatch(/leave it or the objective out/)
  })
})

describe('TrainingArguments', () => {
  const outputDir = 'out'

  it('takes Hugging Face’s names in both spellings, frozen', () => {
    const args = new TrainingArguments({
      output_dir: 'out',
      learning_rate: 1e-5,
      maxSteps: 3,
      evaluation_strategy: 'steps',
    } as never)
    expect({ ...args }).toEqual({
      outputDir,
      learningRate: 1e-5,
      maxSteps: 3,
      evaluationStrategy: 'steps',
    })
    expect(Object.isFrozen(args)).toBe(true)
  })

  it('refuses by name what means nothing without a backward pass', () => {
    const refused = [
      'optim',
      'adam_beta1',
      'max_grad_norm',
      'gradientCheckpointing',
      'fp16',
      'bf16',
      'deepspeed',
      'fsdp_config',
      'torch_compile',
      'dataSeed',
      'label_smoothing_factor',
      'pushToHub',
      'dataloader_num_workers',
      'no_cuda',
      'local_rank',
    ]
    for (const name of refused) {
      const make = () => new TrainingArguments({ outputDir, [name]: 1 } as never)
      expect(make, name).toThrow(new RegExp(`^${name}: .{20,}; leave it out$`))
    }
  })

  it.each([
    [{ learningRate: -1 }, 'learningRate: expected a number of at least 0, found -1'],
    [{ max_steps: 1.5 }, 'max_steps: expected a whole number of at least 0, found 1.5'],
    [{ evalStrategy: 'often' }, 'evalStrategy: expected no, steps or epoch, found "often"'],
    [{ reportTo: 'wandb' }, 'reportTo: expected tensorboard or none, found "wandb"'],
    [
      { maxSteps: 1, max_steps: 1 },
      '"maxSteps" and "max_steps" are the same option; leave one out',
    ],
    [{ lr: 1, learningRate: 1 }, '"lr" and "learningRate" are the same option; leave one out'],
    [{ outputDir: undefined }, 'outputDir is required: the folder that the run writes'],
    [{ learningRat: 1 }, /^unknown option "learningRat" \(did you mean "learning-rate"\?\)/],
  ])('says what is wrong with %j', (given, message) => {
    expect(() => new TrainingArguments({ outputDir, ...given } as never)).toThrow(message)
  })

  it('means the options of zo2 finetune', async () => {
    const { configOf } = await import('../../src/api/training-arguments.ts')
    const of = (given: TrainingArgumentsSpelled) =>
      configOf(new TrainingArguments({ outputDir, ...given }), 100, { device: 'cpu' })
    expect(
      of({
        perDeviceTrainBatchSize: 4,
        gradientAccumulationSteps: 2,
        numTrainEpochs: 2.5,
        warmupRatio: 0.1,
        evalStrategy: 'epoch',
        saveStrategy: 'steps',
        lrSchedulerType: 'constant_with_warmup',
        per_device_eval_batch_size: 7,
      }),
    ).toMatchObject({
      batchSize: 4,
      accumulate: 2,
      steps: 32,
      warmupSteps: 4,
      evalSteps: 13,
      saveSteps: 500,
      lrSchedule: 'constant',
      evalBatchSize: 7,
      evalOnStart: false,
      device: 'cpu',
    })
    expect(of({ maxSteps: 5, evalSteps: 2, evalStrategy: 'no', reportTo: [] })).toMatchObject({
      steps: 5,
      evalSteps: 0,
      tensorboard: true,
    })
    expect(of({ reportTo: 'none', zoEps: 0.5 })).toMatchObject({ tensorboard: false, eps: 0.5 })
  })
})

/** The row with its first label alone. */
function firstLabel(row: readonly number[]): number[] {
  const first = row.findIndex((label) => label >= 0)
  return row.map((label, t) => (t === first ? label : -100))
}

/** -log softmax in f64. */
function crossEntropy(logits: Float32Array, label: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b))
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0)
  return most + Math.log(sum) - logits[label]!
}
