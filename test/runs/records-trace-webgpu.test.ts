// --trace on a webgpu device that measures itself: spans at true times, in a run that is never waited
// for. Runs on the software adapter, whose commands follow each other.
// Alone: npx vitest run test/runs/records-trace-webgpu.test.ts

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTracedEngine } from '../../src/engine/trace.ts'
import { openTrace } from '../../src/records/trace.ts'
import type { Device } from '../../src/device/device.ts'
import { openWebgpu } from '../../src/device/webgpu/device.ts'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { cli, cliJson, makeFolder, TINY } from '../helpers/cli.ts'
import { prepare } from '../helpers/crash.ts'
import {
  filled,
  load,
  matrixOf,
  recipeOf,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { losing } from '../helpers/lose-device.ts'
import { needs } from '../helpers/needs.ts'
import { openRun, syntheticBatch, trainSteps } from '../helpers/runs.ts'
import { SEVERAL_TILES, writeSyntheticOpt } from '../helpers/synthetic-opt.ts'
import { eventsOf, expectLanesApart, spansOf } from '../helpers/trace-file.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

const openTimed = () => openWebgpu({ adapter: TEST_ADAPTER, timed: true })

const OPERATIONS = [
  'project',
  'linear',
  'layerNorm',
  'attention',
  'activation',
  'add',
  'gatherRows',
  'crossEntropy',
] as const

/** The device, with how often it was called. */
function counted(device: Device) {
  const calls: Record<string, number> = {}
  const counting = (name: keyof Device) => {
    calls[name] = 0
    const run = device[name] as (...args: unknown[]) => unknown
    return [name, (...args: unknown[]) => (calls[name]!++, run(...args))] as const
  }
  const own = Object.fromEntries([...OPERATIONS, 'sync' as const].map(counting))
  return { device: { ...device, ...own } as Device, calls }
}

describe('a streamed run on a device that measures itself', () => {
  needs('timestamp-query')
  const shape = { ...SEVERAL_TILES, layers: 3 }
  const training = {
    batches: [0, 1, 2].map((i) => [syntheticBatch(4, 32, shape.vocab, i)]),
    lr: 1e-4,
    eps: 1e-3,
    weightDecay: 0,
  }

  it('has a span for each operation, at its time, beside the reads of slabs to come', async () => {
    const dir = at('model')
    await writeSyntheticOpt(dir, shape, 'F32')
    const path = at('engine.json')
    const [device, plainDevice] = [await openTimed(), await openWebgpu({ adapter: TEST_ADAPTER })]
    try {
      const plain = await openRun({ device: plainDevice }, dir, {
        method: 'lozo',
        resident: 'none',
        slabBytes: 2 ** 20,
      })
      const journal = await trainSteps(plain, training)
      const { options } = plain
      await plain.close()
      const { device: own, calls } = counted(device)
      const beganMs = performance.now()
      const engine = await createTracedEngine(own, options, await openTrace(path))
      const traced = await trainSteps(engine, training)
      const syncs = calls['sync']
      const { plannedPeakBytes } = engine
      await engine.close()
      const endedMs = performance.now()
      expect(traced).toEqual(journal)
      expect(syncs).toBe(0)
      expect(device.ledger.peak().totalBytes).toBe(plainDevice.ledger.peak().totalBytes)
      expect(device.ledger.peak().totalBytes).toBeLessThanOrEqual(plannedPeakBytes)

      const events = eventsOf(path)
      expectLanesApart(events)
      const on = spansOf(events)
      const spans = on('device')
      for (const name of OPERATIONS) {
        expect([name, spans.filter((e) => e.name === name).length]).toEqual([name, calls[name]])
      }
      expect(new Set(spans.map((e) => e.tid)).size).toBe(1)
      for (const { name, ts, dur, args } of spans) {
        expect(ts).toBeGreaterThanOrEqual(beganMs * 1000)
        expect(ts + dur).toBeLessThanOrEqual(endedMs * 1000)
        const uses = name === 'linear' || name === 'crossEntropy'
        if (uses) expect(dur).toBeGreaterThan(0)
        expect(args?.weights).toEqual(uses ? expect.stringMatching(/^model\./) : undefined)
      }
      // In the first step this thread is busy with compiling kernels.
      const second = events.find((e) => e.name === 'step 1')!.ts
      const slabs = on('reads').filter((e) => e.args!.bytes !== undefined && e.ts > second)
      const beside = slabs.filter((read) =>
        spans.some(({ ts, dur }) => ts < read.ts + read.dur && read.ts < ts + dur),
      )
      expect(beside.length).toBeGreaterThan(slabs.length / 2)
    } finally {
      await device.close()
      await plainDevice.close()
    }
    expect(device.ledger.total()).toBe(0)
  })
})

describe('a device that is opened to be measured', () => {
  needs('timestamp-query')
  it('tells when work began and ended, and nothing of work that was none', async () => {
    const device = await openTimed()
    try {
      device.reserve(WORKLOAD)
      const matrix = matrixOf('F16', 64, tilesOver(0, 96, 32), recipeOf([1], 2))
      const slot = device.slot('slots', 'slot', matrix.bytes.length)
      const x = filled(device, 1200, 64, values(1200 * 64, 3))
      const y = device.tensor('activations', 'y', 1200, 96)
      const told: number[][] = []
      const measured = async (rows: number) => {
        await load(device, slot, matrix)
        const issuedMs = performance.now()
        await device.measure!(
          () => device.linear(x, slot, null, y, { probes: 1, rows }),
          (startMs, endMs) => told.push([issuedMs, startMs, endMs, performance.now()]),
        )
      }
      for (const rows of [1200, 0, 600]) await measured(rows)
      await device.sync()
      expect(told).toHaveLength(2)
      const inOrder = told.flat()
      expect(inOrder).toEqual([...inOrder].sort((a, b) => a - b))
    } finally {
      await device.close()
    }
    expect(device.ledger.total()).toBe(0)
  })

  it('is one only if it is asked for', async () => {
    const device = await openWebgpu({ adapter: TEST_ADAPTER })
    expect(device.measure).toBeUndefined()
    await device.close()
  })
})

describe(`--trace --adapter ${TEST_ADAPTER}`, () => {
  const tune = (name: string, ...more: string[]) => [
    ...['finetune', TINY, '--train', at('train.txt'), '--batch-size', '2', '--max-length', '16'],
    ...['--steps', '6', '--logging-steps', '1', '--lr', '1e-4', '--adapter', TEST_ADAPTER],
    ...['--threads', '1', '--slab', '1B', '--resident', 'none', '--save-model', 'no'],
    ...['--output-dir', at(name), ...more],
  ]

  it('changes nothing of the run, and shows its operations', async () => {
    await cliJson(tune('plain'))
    await cliJson(tune('traced', '--trace', at('trace.json')))
    const file = (run: string, name: string) => readFileSync(join(at(run), name), 'utf8')
    expect(file('traced', 'journal.jsonl')).toBe(file('plain', 'journal.jsonl'))
    const peak = (run: string) => (JSON.parse(file(run, 'device.json')) as { bytes: object }).bytes
    expect(peak('traced')).toEqual(peak('plain'))
    const events = eventsOf(at('trace.json'))
    expectLanesApart(events)
    const attentions = spansOf(events)('device').filter((e) => e.name === 'attention')
    expect(attentions).toHaveLength(3 * 6) // layers of the fixture, steps
  })

  it.each([
    ['destroy', 'direct'],
    ['silent', 'ring'],
  ] as const)('leaves a whole trace if the adapter is lost (%s)', async (how, transfer) => {
    const path = at(`${how}.json`)
    const env = losing({ after: 'step 1/6', submit: 12, how })
    const { code, stderr } = await cli(tune(how, '--transfer', transfer, '--trace', path), { env })
    expect(stderr).toMatch(/^zo2: adapter ".*" was lost/m)
    expect(code).toBe(1)
    expect(spansOf(eventsOf(path))('device').length).toBeGreaterThan(0)
  })
})
