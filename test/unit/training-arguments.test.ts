// TrainingArguments: Hugging Face's names in both spellings, frozen; what means nothing without a backward
// pass is refused by name; the rest are the options of zo2 finetune.
// Alone: npx vitest run test/unit/training-arguments.test.ts

import { describe, expect, it } from 'vitest'
import { TrainingArguments, type TrainingArgumentsSpelled } from '../../src/index.ts'
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
    const { configOfArguments } = await import('../../src/api/training-arguments.ts')
    const of = (given: TrainingArgumentsSpelled) =>
      configOfArguments(new TrainingArguments({ outputDir, ...given }), 100, { device: 'cpu' })
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
