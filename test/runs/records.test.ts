// What a run writes down for people: TensorBoard's files, device.json, the progress line.
// TensorBoard itself reads a run's files in scripts/check-tensorboard.py.
// Alone: npx vitest run test/runs/records.test.ts

import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { UserError } from '../../src/util/errors.ts'
import { crc32c, maskedCrc32c } from '../../src/records/tensorboard/crc32c.ts'
import { scalarsRecord, startRecord, versionRecord } from '../../src/records/tensorboard/event.ts'
import { openEventLog } from '../../src/records/tensorboard/writer.ts'
import { createReporter, progressLine } from '../../src/util/console.ts'
import { here, makeFolder } from '../helpers/cli.ts'
import { finish, prepare, runArgs, startAndKill } from '../helpers/crash.ts'
import { decode, scalarsOf, slowCrc32c } from '../helpers/event-file.ts'

const home = makeFolder()
const jsonl = (path: string) =>
  readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, number>)

beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

describe('CRC-32C', () => {
  it('has the values of RFC 3720, B.4', () => {
    const bytes = (make: (i: number) => number) =>
      Uint8Array.from({ length: 32 }, (_, i) => make(i))
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283)
    expect(crc32c(bytes(() => 0))).toBe(0x8a9136aa)
    expect(crc32c(bytes(() => 255))).toBe(0x62a8ab43)
    expect(crc32c(bytes((i) => i))).toBe(0x46dd794e)
    expect(crc32c(bytes((i) => 31 - i))).toBe(0x113fdb5c)
    expect(crc32c(new Uint8Array())).toBe(0)
    const some = Uint8Array.from({ length: 1000 }, (_, i) => (i * i) & 255)
    expect(crc32c(some)).toBe(slowCrc32c(some))
    expect(maskedCrc32c(new Uint8Array())).toBe(0xa282ead8)
  })
})

describe('event records', () => {
  // Made by tensorboard 2.21's RecordWriter and event_pb2.
  it('are the bytes that TensorBoard writes', () => {
    const start = '100000000000000095fbfe180900002040fc54d94110ac023a020801b94512a3'
    expect(startRecord(1700000000.5, 300).toString('hex')).toBe(start)
    const scalars =
      '300000000000000095f5d05f0900002040fc54d941108580808080202a1e0a110a0a6c6f73732f747261696e15000020400a090a026c721517b7d13889b02a6d'
    const values = { 'loss/train': 2.5, lr: 1e-4 }
    expect(scalarsRecord(1700000000.5, 2 ** 40 + 5, values).toString('hex')).toBe(scalars)
  })

  it('are read back by a decoder of their own', () => {
    const records = [versionRecord(1.5), startRecord(2, 7), scalarsRecord(3, 129, { 'a/é': -0.25 })]
    expect(decode(Buffer.concat([...records, Buffer.from('torn')]))).toEqual({
      events: [
        { wallSeconds: 1.5, step: 0, version: 'brain.Event:2', scalars: {} },
        { wallSeconds: 2, step: 7, start: true, scalars: {} },
        { wallSeconds: 3, step: 129, scalars: { 'a/é': -0.25 } },
      ],
      torn: 4,
    })
  })
})

describe('the event log of a run', () => {
  const run = (name: string, steps: number) => {
    const dir = join(home, name)
    mkdirSync(dir)
    const lines = Array.from({ length: steps }, (_, step) => ({ step, loss: step / 2, lr: 0.5 }))
    writeFileSync(join(dir, 'metrics.jsonl'), lines.map((l) => JSON.stringify(l) + '\n').join(''))
    writeFileSync(join(dir, 'evals.jsonl'), '{"step":0,"loss":9,"accuracy":0.5}\n{"step":2,"lo')
    return dir
  }
  const loss = (dir: string) => scalarsOf(dir)['loss/train']?.map(([step]) => step)

  it('goes on in a new file, without a step lost or doubled', async () => {
    const dir = run('resumed', 0)
    const first = await openEventLog(dir, 0)
    for (const step of [0, 1, 2]) await first.step({ step, loss: step / 2, lr: 0.5, tokens: 3 })
    await first.evaluation({ step: 0, loss: 9, accuracy: 0.5 })
    await first.close()
    // The journal has step 3, a kill came before the event; what there is of it is torn.
    const [file] = readdirSync(join(dir, 'runs'))
    appendFileSync(
      join(dir, 'runs', file!),
      scalarsRecord(1, 3, { 'loss/train': 8 }).subarray(0, 30),
    )
    const lines = [0, 1, 2, 3].map((step) => JSON.stringify({ step, loss: step / 2, lr: 0.5 }))
    writeFileSync(join(dir, 'metrics.jsonl'), lines.join('\n') + '\n')
    const second = await openEventLog(dir, 4)
    await second.step({ step: 4, loss: 2, lr: 0.5 })
    await second.close()
    const names = readdirSync(join(dir, 'runs'))
    expect(names.length).toBe(2)
    expect(names.sort()[0]).toBe(file)
    expect(scalarsOf(dir)['loss/train']).toEqual([0, 1, 2, 3, 4].map((step) => [step, step / 2]))
    expect(scalarsOf(dir)['accuracy/eval']).toEqual([[0, 0.5]])
  })

  it('has what came before it, in a run that had none', async () => {
    const dir = run('late', 3)
    await (await openEventLog(dir, 3)).close()
    expect(loss(dir)).toEqual([0, 1, 2])
    expect(scalarsOf(dir)['loss/eval']).toEqual([[0, 9]])
  })

  it('forgets a run that never made a step, and leaves out what is not a number', async () => {
    const dir = run('anew', 0)
    const first = await openEventLog(dir, 0)
    await first.evaluation({ step: 0, loss: 3 })
    await first.close()
    rmSync(join(dir, 'evals.jsonl'))
    const second = await openEventLog(dir, 0)
    await second.evaluation({ step: 0, loss: 4 })
    await second.step({ step: 0, loss: null, lr: 0.5 })
    await second.close()
    expect(scalarsOf(dir)).toEqual({ 'loss/eval': [[0, 4]], lr: [[0, 0.5]] })
  })

  it('says where it cannot write', async () => {
    const dir = run('blocked', 0)
    writeFileSync(join(dir, 'runs'), '')
    await expect(openEventLog(dir, 0)).rejects.toThrow(UserError)
    await expect(openEventLog(dir, 0)).rejects.toThrow(
      /runs: TensorBoard's files cannot be written/,
    )
  })
})

describe('the records of a killed and resumed run', () => {
  it('are in TensorBoard what they are in metrics.jsonl and evals.jsonl', async () => {
    const dir = join(home, 'killed')
    const args = runArgs(home, 'killed')
    await startAndKill(args, 0.3, 0)
    await startAndKill([...args, '--resume'], 0.6, 15)
    await finish([...args, '--resume'])
    const steps = jsonl(join(dir, 'metrics.jsonl'))
    const evals = jsonl(join(dir, 'evals.jsonl'))
    expect(steps.length).toBe(24)
    expect(evals.length).toBeGreaterThanOrEqual(3) // a resumed run begins with one
    const points = (lines: Record<string, number>[], field: string) =>
      lines.flatMap((l) => (l[field] === undefined ? [] : [[l['step'], Math.fround(l[field])]]))
    expect(scalarsOf(dir)).toEqual({
      'loss/train': points(steps, 'loss'),
      projected_grad: points(steps, 'projected_grad'),
      lr: points(steps, 'lr'),
      step_ms: points(steps, 'step_ms'),
      device_bytes: points(steps, 'device_peak_bytes'),
      rss_bytes: points(steps, 'rss_bytes'),
      'loss/eval': points(evals, 'loss'),
    })
    const device = JSON.parse(readFileSync(join(dir, 'device.json'), 'utf8')) as {
      kind: string
      peak_bytes: number
      bytes: Record<string, number>
    }
    expect(device.kind).toBe('cpu')
    // The last evaluation may have texts that are longer than any before.
    expect(device.peak_bytes).toBeGreaterThanOrEqual(steps.at(-1)!['device_peak_bytes']!)
    expect(Object.values(device.bytes).reduce((a, b) => a + b, 0)).toBe(device.peak_bytes)
  }, 240_000)

  it('are left out by --tensorboard no', async () => {
    const args = [...runArgs(home, 'none'), '--steps', '2', '--save-model', 'no']
    await finish([...args, '--tensorboard', 'no'])
    expect(readdirSync(join(home, 'none'))).not.toContain('runs')
    const { code, stderr } = await here([...args, '--tensorboard', 'maybe'])
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: 'zo2: --tensorboard: expected yes or no, found "maybe"\n',
    })
  })
})

describe('the progress line', () => {
  const at = {
    done: 9,
    steps: 100,
    loss: 2.5,
    grad: -1.25,
    lr: 1e-4,
    stepMs: 250,
    tokens: 1024,
    readBytes: 2 ** 28,
    deviceBytes: 2 ** 28,
    leftSeconds: 75,
  }

  it('has the same columns for small and large numbers', () => {
    expect(progressLine(at)).toBe(
      'step   9/100  loss 2.5000  grad    -1.250  lr 1.00e-4    250 ms   4096 tok/s  read 1.00 GiB/s  device  256 MiB  left 1m15s',
    )
    const other = progressLine({
      ...at,
      done: 100,
      grad: 123.4567,
      readBytes: 0,
      stepMs: 33,
      deviceBytes: 5,
      leftSeconds: 0,
    })
    for (const column of ['loss', 'grad', 'lr', 'tok/s', 'read', 'device', 'left']) {
      expect(other.indexOf(column), column).toBe(progressLine(at).indexOf(column))
    }
    expect(progressLine({ ...at, loss: null })).toContain('loss skipped')
  })

  it('is live on a terminal alone, not in CI nor on a dumb one', () => {
    const written = (isTTY: boolean, environment: NodeJS.ProcessEnv) => {
      let text = ''
      const stream = { isTTY, columns: 20, write: (part: string) => (text += part) }
      createReporter(stream, environment).live('a live line that is too long')
      return text
    }
    expect(written(true, { TERM: 'xterm', NO_COLOR: '1' })).toBe('a live line that is')
    expect(written(true, { CI: 'true' })).toBe('')
    expect(written(true, { TERM: 'dumb' })).toBe('')
    expect(written(false, {})).toBe('')
  })
})
