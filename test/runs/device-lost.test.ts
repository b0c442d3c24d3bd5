// A WebGPU device that goes away while it is used, because Dawn drops it or because its driver hangs:
// nothing waits for ever, one sentence says what to do, and a resumed run ends as an undisturbed one.
// Alone: npx vitest run test/runs/device-lost.test.ts

import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openWebgpu } from '../../src/device/webgpu/device.ts'
import { UserError } from '../../src/util/errors.ts'
import { nativeFile } from '../../src/util/native-code.ts'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { here, makeFolder, startCli, SMALL, type Finished } from '../helpers/cli.ts'
import { differences, finish, outcome, prepare } from '../helpers/crash.ts'
import { losing, type Loss } from '../helpers/lose-device.ts'
import { halfWritten } from '../helpers/outcome.ts'
import { openRun, syntheticBatch, trainSteps } from '../helpers/runs.ts'

/** The copy of Dawn that zo2 loads. */
const dawn = pathToFileURL(nativeFile('webgpu/index.js')!).href
const { globals } = (await import(dawn)) as typeof import('webgpu')

/** A process that has not ended by then hangs. */
const SOON_MS = 30_000
const SAID = {
  destroy: 'device was destroyed',
  silent: 'vkQueueSubmit failed with VK_ERROR_DEVICE_LOST at hang (driver:1)',
}
const DEVICE = ['--adapter', TEST_ADAPTER, '--threads', '1']

const home = makeFolder()
const data = join(home, 'train.txt')
beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

/** Six steps with checkpoints, evaluations, and folds on worker threads. */
const runArgs = (name: string, ...more: string[]) => [
  ...['finetune', SMALL, '--train', data, '--eval-file', data, '--eval-samples', '4'],
  ...[
    '--eval-steps',
    '3',
    '--save-steps',
    '2',
    '--save-total-limit',
    '9',
    '--logging-steps',
    '1',
    '--steps',
    '6',
  ],
  ...['--batch-size', '2', '--max-length', '16', '--lr', '1e-4', ...more],
  ...['--output-dir', join(home, name)],
]

const STREAMED = ['--resident', 'none', '--slab', '1B']

/** Dawn must not take mapped memory away from a read under way: only uploads of plain memory lose it so. */
const RUNS = {
  destroy: ['--transfer', 'direct', '--replay-window', '2', ...STREAMED],
  silent: [
    '--transfer',
    'ring',
    '--method',
    'lozo',
    '--window',
    '1',
    '--fold-windows',
    '1',
    ...STREAMED,
  ],
}

/** Runs `zo2` on an adapter that goes away; fails if it does not end. */
async function lost(args: readonly string[], loss: Loss): Promise<Finished> {
  const running = startCli(args, { env: losing(loss) })
  const timer = setTimeout(() => running.child.kill('SIGKILL'), SOON_MS)
  const ended = await running.finished
  clearTimeout(timer)
  const sentences = ended.stderr.split('\n').filter((line) => line.startsWith('zo2: '))
  expect({ ...ended, sentences }).toMatchObject({ sentences: [expect.any(String)] })
  expect(sentences[0]).toMatch(/^zo2: adapter ".*--resume.*--device cpu/)
  expect(sentences[0]).toContain(TEST_ADAPTER)
  expect(sentences[0]).toContain(SAID[loss.how])
  expect(ended).toMatchObject({ code: 1, signal: null, stdout: '' })
  return ended
}

describe.each(['destroy', 'silent'] as const)('a run that loses its adapter (%s)', (how) => {
  const args = (name: string) => runArgs(`${how}-${name}`, ...DEVICE, ...RUNS[how])
  beforeAll(() => finish(args('undisturbed')))
  const undisturbed = () => outcome(join(home, `${how}-undisturbed`))

  // Each moment in one of the two ways.
  const moments = [
    ['at the start of the first evaluation', 'device webgpu', 1, 0],
    ['in the first evaluation', 'plan: ', 9, 0],
    ['before anything of the first step', 'eval step 0', 1, 0],
    ['in a step', 'step 1/6', 12, 1],
    ['in a step after a checkpoint', 'saved', 12, 2],
    ['in an evaluation', 'step 3/6', 9, 3],
    ['in the last evaluation', 'step 6/6', 9, 6],
  ] as const
  it.each(moments.filter((_, i) => (i % 2 === 0) === (how === 'destroy')))(
    'ends with one sentence %s, and resumed it is as undisturbed',
    async (_at, after, submit, steps) => {
      const name = `${after.replaceAll(/\W+/g, '-')}${submit}`
      const dir = join(home, `${how}-${name}`)
      await lost(args(name), { after, submit, how })
      const journal = readFileSync(join(dir, 'journal.jsonl'), 'utf8')
      expect(journal.split('\n')).toHaveLength(steps + 1)
      expect(undisturbed().get('journal.jsonl')!.toString().startsWith(journal)).toBe(true)
      expect(halfWritten(dir, undisturbed())).toEqual([])
      expect(readdirSync(dir).filter((file) => /^\.|lock|tmp$/.test(file))).toEqual([])
      await finish([...args(name), '--resume'])
      expect(differences(undisturbed(), outcome(dir))).toEqual([])
    },
  )

  it('goes on with --device cpu', async () => {
    await lost(args('moved'), { after: 'step 2/6', submit: 9, how })
    // The first two say how an adapter's memory is filled.
    const onCpu = runArgs(
      `${how}-moved`,
      ...RUNS[how].slice(2),
      '--device',
      'cpu',
      '--threads',
      '1',
    )
    const { code, stderr } = await here([...onCpu, '--resume'])
    expect(stderr).toContain('resuming at step 2 of 6')
    expect(code).toBe(0)
  })

  it('says the same in evaluation and generation', async () => {
    const evaluate = [
      'eval',
      SMALL,
      '--eval-file',
      data,
      '--eval-samples',
      '8',
      '--max-length',
      '16',
    ]
    const generate = ['generate', SMALL, '--prompt', 'To be', '--max-new-tokens', '20']
    // Every pair of command, moment and how.
    const [early, late] = how === 'destroy' ? [evaluate, generate] : [generate, evaluate]
    for (const [command, submit] of [
      [early, 2],
      [late, 12],
    ] as const) {
      const loss = { after: 'device webgpu', submit, how }
      await lost([...command, ...DEVICE, ...STREAMED, '--json'], loss)
    }
  })
})

describe('an engine that loses its device', () => {
  const { GPUAdapter } = globals as unknown as { GPUAdapter: { prototype: GPUAdapter } }
  const { requestDevice } = GPUAdapter.prototype
  afterEach(() => {
    GPUAdapter.prototype.requestDevice = requestDevice
  })

  /** A device of ours, with Dawn's own behind it. */
  async function openBoth() {
    let gpu: GPUDevice | undefined
    GPUAdapter.prototype.requestDevice = async function (...args) {
      return (gpu = await requestDevice.apply(this, args))
    }
    const device = await openWebgpu({ adapter: TEST_ADAPTER, transfer: 'direct' })
    return { device, gpu: gpu! }
  }

  it.each([0, 1, 2, 4, 8, 16, 32])(
    'rejects its step after %i ms, and all that follows, and gives its memory back',
    async (ms) => {
      const { device, gpu } = await openBoth()
      const engine = await openRun({ device }, SMALL, { replayWindow: 1 })
      const batches = Array.from({ length: 500 }, (_, i) => [syntheticBatch(2, 8, 1000, i)])
      const training = { batches, lr: 1e-4, eps: 1e-3, weightDecay: 0 }
      const steps = trainSteps(engine, training)
      const first = expect(steps).rejects.toThrow(/^adapter ".*" was lost \(device was dest/)
      await delay(ms)
      gpu.destroy()
      await first
      const again = trainSteps(engine, { ...training, first: 500 })
      await expect(again).rejects.toBeInstanceOf(UserError)
      await expect(device.sync()).rejects.toThrow('--resume')
      await engine.close()
      await device.close()
      expect(device.ledger.total()).toBe(0)
    },
  )
})
