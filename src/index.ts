// The public API: re-exports only.
//
//   import { fromPretrained, zoInit } from 'zo2'
//   const model = await fromPretrained('facebook/opt-125m', { device: 'auto' })
//   const zo = await zoInit(model, { method: 'mezo-sgd', lr: 1e-6, eps: 1e-3, seed: 0 })
//   for (const batch of batches) console.log((await zo.step(batch)).loss)
//   await zo.save('out/model')
//   await model.close()

export { fromPretrained, zoInit } from './api.ts'
export type {
  ForwardResult,
  MethodArguments,
  ModelOptions,
  StepResult,
  Zo,
  ZoModel,
  ZoOptions,
} from './api.ts'
export { EarlyStoppingCallback } from './callbacks.ts'
export type {
  EventDetails,
  StepHooks,
  TrainerCallback,
  TrainerControl,
  TrainerState,
} from './callbacks.ts'
export type { CustomObjective, LogitsScore, LossesScore, TextScore } from './custom-objective.ts'
export { dataLoader } from './data-loader.ts'
export type { DataCollator, LoaderOptions } from './data-loader.ts'
export type { Batch, BatchInput, Example, Tokenizer } from './data/types.ts'
export { collate, collateExamples } from './data/batches.ts'
export { loadExamples } from './data/examples.ts'
export { loadTokenizer } from './data/tokenizer.ts'
export type { ComputeMetrics, EvalPrediction, PreprocessLogits } from './datasets.ts'
export type { Device, DeviceInfo } from './device/device.ts'
export { UserError } from './errors.ts'
export type { Evaluation } from './evaluate.ts'
export type { Goal } from './goal.ts'
export type { JournalEntry } from './journal.ts'
export type { LabelLogits } from './label-logits.ts'
export { loadTask } from './load-task.ts'
export type { TaskArguments, TaskExamples } from './load-task.ts'
export { TrainingArguments } from './training-arguments.ts'
export type { TrainingArgumentsInput, TrainingArgumentsSpelled } from './training-arguments.ts'
export { VERSION } from './version.ts'
export { ZOTrainer } from './zo-trainer.ts'
export type { TrainOutput, ZOTrainerOptions } from './zo-trainer.ts'
