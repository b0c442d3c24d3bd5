// The public API: re-exports only.
//
//   import { fromPretrained, zoInit } from 'zo2'
//   const model = await fromPretrained('facebook/opt-125m', { device: 'auto' })
//   const zo = await zoInit(model, { method: 'mezo-sgd', lr: 1e-6, eps: 1e-3, seed: 0 })
//   for (const batch of batches) console.log((await zo.step(batch)).loss)
//   await zo.save('out/model')
//   await model.close()

export { fromPretrained, zoInit } from './api/model.ts'
export type {
  ForwardInput,
  ForwardResult,
  ModelDevice,
  ModelOptions,
  StepResult,
  Zo,
  ZoModel,
  ZoOptions,
} from './api/model.ts'
export { EarlyStoppingCallback } from './train/callbacks.ts'
export type {
  EventDetails,
  Listener,
  StepHooks,
  TrainerCallback,
  TrainerControl,
  TrainerState,
} from './train/callbacks.ts'
export { dataLoader } from './api/data-loader.ts'
export type { DataCollator, LoaderOptions } from './api/data-loader.ts'
export type {
  Batch,
  BatchInput,
  Choice,
  DataKind,
  Example,
  Sequence,
  Tokenizer,
} from './data/types.ts'
export { collate, collateExamples } from './data/batches.ts'
export type { LossOn } from './data/chat-data.ts'
export type { ChatTemplate, Message, Span } from './data/chat-template.ts'
export { loadExamples } from './data/examples.ts'
export type { ExampleOptions, ExampleSet } from './data/examples.ts'
export { loadTokenizer } from './data/tokenizer.ts'
export type { ComputeMetrics, EvalPrediction, PreprocessLogits } from './api/data.ts'
export type { Config } from './config/options.ts'
export type { DeviceInfo } from './device/device.ts'
export type { ByteTable, Category, Ledger } from './device/ledger.ts'
export { UserError } from './util/errors.ts'
export type { Evaluation } from './train/evaluate.ts'
export type {
  CustomObjective,
  Goal,
  LogitsScore,
  LossesScore,
  Scores,
  TextScore,
} from './api/objective.ts'
export type { CriterionOptions, Scored } from './run/best.ts'
export type { JournalEntry } from './run/journal.ts'
export type { LabelLogits } from './train/logits.ts'
export { loadTask } from './api/load-task.ts'
export type { TaskArguments, TaskExamples } from './api/load-task.ts'
export { TrainingArguments } from './api/training-arguments.ts'
export type { TrainingArgumentsInput, TrainingArgumentsSpelled } from './api/training-arguments.ts'
export { VERSION } from './util/version.ts'
export { ZOTrainer } from './api/trainer.ts'
export type { TrainOutput, ZOTrainerOptions } from './api/trainer.ts'
