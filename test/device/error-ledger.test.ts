// Errors at every place of an engine's work: afterwards the device's ledger is at zero, no file is open
// and no thread is left. The same of whole runs is in error-runs.test.ts; memory as planned in
// ledger.test.ts. Alone: npx vitest run test/device/error-ledger.test.ts

import { copyFile, mkdir, readFile, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { evaluateBatches, evaluateTexts } from '../../src/train/evaluate.ts'
import { exportModel } from '../../src/export/folder.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { generate } from '../../src/generate/generate.ts'
import { packBatch, packTexts } from '../../src/data/packing.ts'
import { forward, passOver } from '../../src/engine/forward.ts'
import { zoStep, type StepInput } from '../../src/train/step.ts'
import { SMALL } from '../helpers/cli.ts'
import { openDevices, type TestDevice } from '../helpers/devices.ts'
import { leftovers, liveWorkers } from '../helpers/leftovers.ts'
import { evenShape } from '../helpers/shape.ts'
import {
  onFresh,
  openRun,
  syntheticBatch,
  tempFolder,
  trainSteps,
  type OpenDevice,
  type RunOptions,
} from '../helpers/runs.ts'

const VOCAB = 1000
const home = tempFolder()
const batch = syntheticBatch(2, 8, VOCAB, 3)
const packed = packBatch(batch)
const boom = new Error('boom')

/** A fold at every step, and slabs of one tile through the ring. */
const METHODS: [string, RunOptions][] = [
  ['mezo-sgd', { replayWindow: 1 }],
  ['lozo', { window: 1, foldWindows: 1 }],
  ['mezo-sgd, overlay on disk', { replayWindow: 1, ramBytes: 1 }],
].map(([name, options]) => [
  name as string,
  { method: (name as string).split(',')[0]!, slabBytes: 1, ...(options as RunOptions) },
])

let copies = 0
/** A copy of the model that a test may damage. */
async function copyOfModel(): Promise<{ dir: string; file: string }> {
  const dir = join(home, `model-${copies++}`)
  await mkdir(dir)
  for (const name of ['config.json', 'model.safetensors']) {
    await copyFile(join(SMALL, name), join(dir, name))
  }
  return { dir, file: join(dir, 'model.safetensors') }
}

const steps = (engine: Engine, first: number, count: number) =>
  trainSteps(engine, {
    batches: Array.from({ length: count }, () => [batch]),
    first,
    lr: 1e-4,
    eps: 1e-3,
    weightDecay: 0,
  })

const stepWith = (engine: Engine, part: Partial<StepInput>) =>
  zoStep(engine, {
    batches: [packed],
    step: 2,
    lr: 1e-4,
    eps: 1e-3,
    weightDecay: 0,
    append: async () => {},
    ...part,
  })

/** Something that goes wrong on an engine that has made two steps. */
type Mishap = (engine: Engine, file: string) => Promise<unknown>

const truncated =
  (part: number, use: (engine: Engine) => Promise<unknown>): Mishap =>
  async (engine, file) => {
    const { length } = await readFile(file)
    await truncate(file, Math.floor(part * length))
    await use(engine)
  }
const evaluation = (engine: Engine) => evaluateBatches(engine, [batch, batch, batch])
const answers = (engine: Engine, onToken = () => {}) =>
  generate(engine, [[5, 6, 7]], {
    maxNewTokens: 6,
    temperature: 0,
    topK: 0,
    topP: 1,
    seed: 1,
    eosIds: [],
    onToken,
  })
const throwing = () => {
  throw boom
}
const logits = (engine: Engine) =>
  forward(
    engine,
    passOver(engine.model, packed, { kind: 'logits', rows: packed.rows, sink: throwing }),
    null,
  )
/** Of a step that has begun, after `ms`. */
const threadsEnd =
  (ms: number): Mishap =>
  async (engine) => {
    const work = steps(engine, 2, 40)
    work.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, ms))
    await Promise.all(liveWorkers().map((worker) => worker.terminate()))
    await work
  }

const MISHAPS: [string, string | RegExp, Mishap][] = [
  [
    'an objective of logits that throws',
    'boom',
    (engine) => stepWith(engine, { objective: { kind: 'logits', score: () => throwing() } }),
  ],
  [
    'an objective of losses that throws',
    'boom',
    (engine) => stepWith(engine, { objective: { kind: 'losses', score: () => throwing() } }),
  ],
  [
    'a journal that cannot be written',
    'boom',
    (engine) => stepWith(engine, { append: async () => throwing() }),
  ],
  ['a consumer of logits that throws', 'boom', logits],
  ['a listener of generated tokens that throws', 'boom', (engine) => answers(engine, throwing)],
  [
    'an evaluation that is stopped',
    'boom',
    (engine) => evaluateTexts(engine, packed.texts, throwing),
  ],
  [
    'an export that is stopped',
    'boom',
    (engine) =>
      exportModel(engine, join(home, `stopped-${copies++}`), {
        dtype: 'F32',
        onProgress: throwing,
      }),
  ],
  [
    'a token beyond the vocabulary',
    /./,
    (engine) =>
      stepWith(engine, {
        batches: [
          packTexts(
            packed.texts.map((text) => ({ ...text, inputIds: text.inputIds.map(() => 2 ** 20) })),
          ),
        ],
      }),
  ],
  ['threads that end before a step', /ended/, threadsEnd(0)],
  ['threads that end in a step', /ended/, threadsEnd(25)],
]

/** These meet the files themselves: what has been folded is elsewhere by then. */
const TRUNCATED: [string, Mishap][] = [0, 0.4].flatMap((part): [string, Mishap][] => [
  [`a step, ${100 * part} % of the weights left`, truncated(part, (engine) => steps(engine, 0, 3))],
  [`an evaluation, ${100 * part} % left`, truncated(part, evaluation)],
  [`generation, ${100 * part} % left`, truncated(part, (engine) => answers(engine))],
  [
    `an export, ${100 * part} % left`,
    truncated(part, (engine) =>
      exportModel(engine, join(home, `cut-${copies++}`), { dtype: 'F32' }),
    ),
  ],
])

describe.each(openDevices())('after an error on $name', (test: TestDevice) => {
  /** Runs `body` on a device of its own, closes it, and expects that nothing is left. */
  async function nothingLeft(body: (on: OpenDevice) => Promise<void>): Promise<void> {
    await onFresh(test, body)
    expect(await leftovers(home)).toEqual([])
  }

  describe.each(METHODS)('with %s', (_name, options) => {
    it.each(MISHAPS)('by %s nothing is left', async (_what, message, mishap) => {
      await nothingLeft(async (on) => {
        const { dir, file } = await copyOfModel()
        const engine = await openRun(on, dir, { ...options, scratchDir: dir })
        try {
          await steps(engine, 0, 2)
          await expect(mishap(engine, file)).rejects.toThrow(message)
        } finally {
          await engine.close()
        }
      })
    })

    it.each(TRUNCATED)('by a file that ends early in %s nothing is left', async (_what, mishap) => {
      await nothingLeft(async (on) => {
        const { dir, file } = await copyOfModel()
        const engine = await openRun(on, dir, { ...options, scratchDir: dir })
        try {
          await expect(mishap(engine, file)).rejects.toThrow('model.safetensors')
        } finally {
          await engine.close()
        }
      })
    })
  })

  it('that is a batch too large nothing stays behind, and a smaller one goes on', async () => {
    await nothingLeft(async (on) => {
      const reference = await openRun(on, SMALL)
      const unbroken = await steps(reference, 0, 2)
      await reference.close()
      const engine = await openRun(on, SMALL, { budgetBytes: 2 ** 60 })
      try {
        const [before] = await steps(engine, 0, 1)
        const huge = { ...evenShape(2, 2, 8), rows: 2 ** 31 }
        expect(() => engine.workingSet(huge)).toThrow(/smaller batch/)
        expect([before, ...(await steps(engine, 1, 1))]).toEqual(unbroken)
        const { plan } = engine.workingSet(evenShape(2, 1, 2))
        expect(on.device.ledger.now).toEqual(plan.bytes)
      } finally {
        await engine.close()
      }
    })
  })

  it('at the opening of an engine nothing is left', async () => {
    await nothingLeft(async (on) => {
      const { dir, file } = await copyOfModel()
      await truncate(file, 2 ** 18)
      await expect(openRun(on, dir)).rejects.toThrow('model.safetensors')
      const whole = { seed: 1, step: 0, lr: 1, decay: 1, grads: [1] }
      const updates = [whole, { ...whole, step: 1 }]
      const scratchDir = join(home, 'no such folder')
      const options = {
        updates,
        method: 'lozo',
        window: 1,
        foldWindows: 1,
        ramBytes: 1,
        scratchDir,
      }
      await expect(openRun(on, SMALL, options)).rejects.toThrow(scratchDir)
    })
  })
})
