// A program: `node --import tsx full-disk-run.ts DEVICE FOLDER` trains by the library, with folds in a
// scratch file, checkpoints and evaluations, closes the model whatever happens, and prints what the
// error was and what is left. For error-ledger.test.ts, which takes the disk away (file-calls.ts).

import { join } from 'node:path'
import { loadExamples, fromPretrained, ZOTrainer } from '../../src/index.ts'
import { TEST_ADAPTER } from './adapter.ts'
import { SHAKESPEARE, TINY } from './cli.ts'
import { leftovers } from './leftovers.ts'

const [device, folder] = process.argv.slice(2) as ['cpu' | 'webgpu', string]
const adapter = device === 'webgpu' ? { adapter: TEST_ADAPTER } : {}
const model = await fromPretrained(TINY, {
  device,
  ...adapter,
  threads: 1,
  ram: '1B',
  resident: 'none',
  slab: '1B',
  scratchDir: folder,
})
const { ledger } = model.device
let said = ''
try {
  const train = join(SHAKESPEARE, 'train.txt')
  const { examples } = await loadExamples(train, await model.tokenizer(), { maxLength: 8 })
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
