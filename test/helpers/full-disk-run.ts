// A program (compiled.ts): `node full-disk-run.js LIBRARY MODEL TEXT FOLDER [ADAPTER]` trains by the library, with
// folds in a scratch file, checkpoints and evaluations, closes the model whatever happens, and prints what
// the error was and what is left. For error-runs.test.ts, which takes the disk away (file-calls.ts).

import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { leftovers } from './leftovers.ts'

const [library, source, text, folder, adapter] = process.argv.slice(2) as [
  ...[string, string, string, string],
  adapter?: string,
]
const { loadExamples, fromPretrained, ZOTrainer } = (await import(
  pathToFileURL(library).href
)) as typeof import('../../src/index.ts')
const model = await fromPretrained(source, {
  ...(adapter === undefined ? { device: 'cpu' } : { device: 'webgpu', adapter }),
  threads: 1,
  ram: '1B',
  resident: 'none',
  slab: '1B',
  scratchDir: folder,
})
const { ledger } = model.device
let said = ''
try {
  const { examples } = await loadExamples(text, await model.tokenizer(), { maxLength: 8 })
  const trainer = new ZOTrainer({
    model,
    args: {
      outputDir: join(folder, 'run'),
      maxSteps: 4,
      replayWindow: 1,
      learningRate: 1e-4,
      evalStrategy: 'steps',
      evalSteps: 2,
      saveSteps: 2,
      disableTqdm: true,
    },
    trainDataset: examples.slice(0, 4),
    evalDataset: examples.slice(0, 2),
  })
  await trainer.train()
  await trainer.saveModel()
} catch (error) {
  said = (error as Error).message
}
const heldBytes = ledger.total()
await model.close()
const result = { said, heldBytes, bytes: ledger.now, left: await leftovers(folder) }
process.stdout.write(JSON.stringify(result))
