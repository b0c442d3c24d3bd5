// The public API: re-exports only.
//
//   import { fromPretrained, zoInit } from 'zo2'
//   const model = await fromPretrained('facebook/opt-125m', { device: 'auto' })
//   const zo = await zoInit(model, { method: 'mezo-sgd', lr: 1e-6, eps: 1e-3, seed: 0 })
//   for (const batch of batches) console.log((await zo.step(batch)).loss)
//   await zo.save('out/model')
//   await model.close()

export { fromPretrained, zoInit } from './api.ts'
export type { ForwardResult, ModelOptions, StepResult, Zo, ZoModel, ZoOptions } from './api.ts'
export type { Batch, BatchInput, Example, Tokenizer } from './data/types.ts'
export { collate } from './data/batches.ts'
export { loadExamples } from './data/examples.ts'
export { loadTokenizer } from './data/tokenizer.ts'
export type { Device, DeviceInfo } from './device/device.ts'
export { UserError } from './errors.ts'
export type { Evaluation } from './evaluate.ts'
export type { JournalEntry } from './journal.ts'
export { VERSION } from './version.ts'
