// What the library does with wrong arguments and calls at the same time: one sentence, or their turn; and
// what the command line does when nobody reads it, or the system refuses it something.
// Alone: npx vitest run test/runs/api-guards.test.ts

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { fromPretrained, zoInit, ZOTrainer, type ZoModel } from '../../src/index.ts'
import { cli, makeFolder, TINY } from '../helpers/cli.ts'
import { runArgs, prepare } from '../helpers/crash.ts'

const home = makeFolder()
afterAll(() => rmSync(home, { recursive: true, force: true }))

const open = () => fromPretrained(TINY, { device: 'cpu', threads: 1 })
const batch = (seed: number) => ({
  inputIds: [[2, 5 + seed, 6, 7]],
  labels: [[-100, 5 + seed, 6, 7]],
})
const sentence = async (work: Promise<unknown>) => {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown as Error,
  )
  expect(error?.name).toBe('UserError')
  return error!.message
}

async function withModel(use: (model: ZoModel) => Promise<void>): Promise<void> {
  const model = await open()
  try {
    await use(model)
  } finally {
    await model.close()
  }
}

describe('wrong arguments', () => {
  it('of fromPretrained and forward get one sentence', () =>
    withModel(async (model) => {
      for (const none of [undefined, null, '', 3]) {
        expect(await sentence(fromPretrained(none as never))).toMatch(/^fromPretrained: expected a/)
      }
      for (const none of [undefined, null, 3, [], { inputIds: 3 }, { inputIds: [3] }, {}]) {
        expect(await sentence(model.forward(none as never))).toMatch(/must be|expected/)
      }
      expect(await sentence(fromPretrained(TINY, { devise: 'cpu' } as never))).toMatch(/"device"/)
      expect(await sentence(fromPretrained(TINY, { lr: 1 } as never))).toMatch(
        /^lr is an option of/,
      )
    }))

  it.each([NaN, Infinity, -1, 'x', undefined, null])('%s is no rate', (value) =>
    withModel(async (model) => {
      const zo = await zoInit(model, { lr: 1e-4 })
      expect(() => (zo.lr = value as never)).toThrow(/^lr: expected a number of at least 0, found/)
      expect(zo.lr).toBe(1e-4)
    }),
  )

  it('items that are no examples are named, with what they are', () =>
    withModel(async (model) => {
      const args = { outputDir: join(home, 'none'), maxSteps: 1, disableTqdm: true }
      const trainDataset = [{ input_ids: [1, 2], labels: [1, 2] }] as never
      const trainer = new ZOTrainer({ model, args, trainDataset })
      expect(await sentence(trainer.train())).toMatch(
        /^trainDataset\[0\]: expected an example .* found an object with input_ids, labels/,
      )
    }))
})

describe('calls at the same time', () => {
  it('are made one after another, in their order', async () => {
    const losses = async (atOnce: boolean) => {
      const made: number[] = []
      await withModel(async (model) => {
        const zo = await zoInit(model, { lr: 1e-3 })
        const step = async (i: number) => void made.push((await zo.step(batch(i))).loss)
        if (atOnce) await Promise.all([step(0), step(1), model.forward(batch(0)), step(2)])
        else for (const i of [0, 1, 2]) await step(i)
      })
      return made
    }
    expect(await losses(true)).toEqual(await losses(false))
  })

  it('are waited for by close, after which there are none', async () => {
    const model = await open()
    const zo = await zoInit(model, {})
    const [step] = await Promise.all([zo.step(batch(0)), model.close(), model.close()])
    expect(step.loss).toBeGreaterThan(0)
    expect(await sentence(zo.step(batch(0)))).toBe('the model is closed')
    expect(await sentence(model.forward(batch(0)))).toBe('the model is closed')
  })

  it('may look at the model from a hook, and are refused where they would wait for themselves', () =>
    withModel(async (model) => {
      const seen: unknown[] = []
      const zo = await zoInit(model, {
        afterStep: async () => {
          seen.push((await model.forward(batch(1))).loss)
          seen.push(await sentence(zo.step(batch(1))), await sentence(model.close()))
        },
      })
      await zo.step(batch(0))
      expect(seen).toEqual([
        expect.any(Number),
        expect.stringMatching(/^step cannot be called from a callback/),
        expect.stringMatching(/^close cannot be called from a callback/),
      ])
    }))
})

describe('the command line', () => {
  const plan = ['plan', TINY, '--device', 'cpu', '--batch-size', '1', '--max-length', '8']

  it('trains on when its progress cannot be written', async () => {
    prepare(home)
    const args = runArgs(home, 'unread')
    const { code } = await cli([...args, '--steps', '3'], { shell: '"$0" "$@" 2>/dev/full' })
    expect(code).toBe(0)
  })

  it('says in one sentence that its result cannot be written', async () => {
    const { code, stderr } = await cli([...plan, '--quiet'], { shell: '"$0" "$@" >/dev/full' })
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'zo2: the result cannot be written to stdout (ENOSPC); free some disk space there\n',
    })
  })

  it('names a place for temporary files that is not there', async () => {
    const none = join(home, 'no-tmp')
    const eval_ = ['eval', TINY, '--eval-file', join(home, 'train.txt'), '--device', 'cpu']
    const { code, stderr } = await cli([...eval_, '--quiet'], { env: { TMPDIR: none } })
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `zo2: ${none}: no folder for temporary files can be made there (ENOENT); set TMPDIR to a folder that you can write to\n`,
    })
  })

  it('names the limit of open files', async () => {
    const { code, stderr } = await cli([...runArgs(home, 'few'), '--quiet'], {
      shell: 'ulimit -n 60; exec "$0" "$@"',
    })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^zo2: [^\n]*ulimit -n[^\n]*\n$/)
  })
})
