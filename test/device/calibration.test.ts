// What a plan says against what runs do: the bytes that they read and the memory that they take; and
// the calibration of this machine: measured once, kept, and the time of a step of any size from it.
// Alone: npx vitest run test/device/calibration.test.ts

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bench } from '../../src/plan/bench.ts'
import { diskRate, ratesOf } from '../../src/plan/rates.ts'
import { parseConfig } from '../../src/config/options.ts'
import { planReport } from '../../src/plan/report.ts'
import { silent } from '../../src/util/console.ts'
import { openDevice } from '../../src/engine/open.ts'
import { syntheticModel } from '../../src/engine/load.ts'
import { hereJson } from '../helpers/cli.ts'

describe('plan', () => {
  it.each([
    ['mezo-sgd', 'none', 1],
    ['mezo-sgd', 'none', 5],
    ['mezo-sgd', 'all', 5],
    ['lozo', 'none', 3],
  ] as const)(
    'reads what the run reads: %s, resident %s, %i steps',
    async (method, resident, steps) => {
      const config = parseConfig({
        device: 'cpu',
        batchSize: 1,
        maxLength: 8,
        method,
        resident,
        steps,
      })
      const planned = await planReport('synthetic:opt-350m/1', config, silent)
      const model = syntheticModel({ size: 'opt-350m', layers: 1 })
      const made = await bench(model, config, silent, new AbortController().signal)
      // The gathered rows of tables are not slabs.
      expect(Math.abs(made.read_bytes / planned.json.read_bytes - 1)).toBeLessThan(0.05)
      expect(made.device_peak_bytes).toBe(planned.json.device_peak_bytes)
    },
  )
})

describe('the calibration of this machine', () => {
  const dir = mkdtempSync(join(tmpdir(), 'zo2-calibration-'))
  const before = process.env['XDG_CACHE_HOME']
  beforeAll(() => void (process.env['XDG_CACHE_HOME'] = dir))
  afterAll(() => {
    if (before === undefined) delete process.env['XDG_CACHE_HOME']
    else process.env['XDG_CACHE_HOME'] = before
    rmSync(dir, { recursive: true, force: true })
  })

  it('is measured once, kept, and measured again if the file is damaged', async () => {
    const device = await openDevice(parseConfig({ device: 'cpu' }))
    const file = join(dir, 'zo2/calibration.json')
    let measured = 0
    const announce = () => void measured++
    const options = { threads: 2, noise: 'gaussian', redo: false, announce } as const
    try {
      const rates = await ratesOf(device, options)
      expect(rates.products.map(([rows]) => rows)).toEqual([16, 128, 512, 2048])
      // More rows take longer, whatever else the machine does.
      expect(rates.products[3]![1]).toBeGreaterThan(2 * rates.products[0]![1])
      expect(rates).toMatchObject({ sharesCores: true, threads: 2, uploadRate: null })
      expect(device.ledger.now.slots + device.ledger.now.activations).toBe(0)
      expect(await ratesOf(device, options)).toEqual(rates)
      expect(measured).toBe(1)
      const kept = readFileSync(file, 'utf8')
      writeFileSync(file, '{"devices":{"x":1}}')
      const measures = () => {
        throw new Error('measures')
      }
      await expect(ratesOf(device, { ...options, announce: measures })).rejects.toThrow('measures')
      await diskRate(undefined, false)
      expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual({
        devices: {},
        disks: expect.any(Object),
      })
      writeFileSync(file, kept)
    } finally {
      await device.close()
    }
  })

  it('knows the disk', async () => {
    const rate = await diskRate(undefined, false)
    expect(rate).toBeGreaterThan(1e6)
    expect(await diskRate(undefined, false)).toBe(rate)
    const kept = JSON.parse(readFileSync(join(dir, 'zo2/calibration.json'), 'utf8')) as object
    expect(Object.keys(kept)).toEqual(['devices', 'disks'])
  })

  it('tells the time of a step of any size at once', async () => {
    const args = [
      '--synthetic',
      'opt-175b',
      '--method',
      'lozo',
      '--batch-size',
      '1',
      '--max-length',
      '2048',
      '--memory',
      '8GiB',
      '--device',
      'cpu',
      '--steps',
      '10',
    ]
    const plan = await hereJson(['plan', ...args], { env: { XDG_CACHE_HOME: dir } })
    expect(plan).toMatchObject({ bound: 'compute', upload_ms: 0, download_bytes: 0 })
    expect(plan['step_ms']).toBeGreaterThan(1000)
    expect(plan['step_ms']).toBeGreaterThanOrEqual(plan['compute_ms'] as number)
  })

  it('is not needed for a plan: where there is no such device, the plan says so', async () => {
    const args = ['--synthetic', 'opt-125m', '--device', 'webgpu', '--adapter', 'no such adapter']
    const plan = await hereJson(['plan', ...args], { env: { XDG_CACHE_HOME: dir } })
    expect(plan).toMatchObject({ step_ms: null, bound: null, break_even_batch: null })
    expect(plan['device_peak_bytes']).toBeGreaterThan(0)
  })
})
