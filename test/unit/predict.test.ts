// The prediction of a step as pure functions, against sums done by hand, and what it says of a plan.
// What runs read and what this machine's calibration is: test/device/calibration.test.ts.
// Alone: npx vitest run test/unit/predict.test.ts

import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../src/config/options.ts'
import { planReport, predictionReport } from '../../src/plan/report.ts'
import { predictStep, trafficOf, type Rates, type StepWork } from '../../src/plan/predict.ts'
import { silent } from '../../src/util/console.ts'

/** One nanosecond per weight element and row; everything else is free. */
const RATES: Rates = {
  sharesCores: false,
  threads: 2,
  products: [
    [1, 1],
    [1000, 1000],
  ],
  widen: 0,
  version: 0,
  term: 0,
  logit: 0,
  attention: [[0, 0]],
  element: 0,
  addends: { 'low-rank': 0, kronecker: 0 },
  callMs: 0,
  rowReadMs: 0,
  fold: 0,
  foldTerm: 0,
  uploadRate: 1e9,
  cachedRate: 4e9,
  syntheticRate: 8e9,
}
const bytes = (n: number) => ({ readBytes: n, uploadBytes: n, downloadBytes: 0 })
/** 1e6 elements, two probes of 8 rows: 16 ms of products. */
const WORK: StepWork = {
  probes: 2,
  passes: 1,
  textParts: 1,
  batch: 2,
  rowsPerText: 4,
  layers: 2,
  hidden: 16,
  vocabSize: 100,
  partedElements: 0,
  sharedElements: 1e6,
  ready: true,
  terms: 0,
  addend: null,
  foldElements: 0,
  foldTerms: 0,
  traffic: bytes(2e6),
  slabBytes: 0,
}
const predict = (work: Partial<StepWork>, rates: Partial<Rates> = {}, tier = 'memory' as const) =>
  predictStep({ ...WORK, ...work }, { ...RATES, ...rates }, tier, 1e6)

describe('predictStep', () => {
  it('multiplies all rows at once where probes share weights, each alone where not', () => {
    expect(predict({}).computeMs).toBeCloseTo(16)
    const parted = { partedElements: 1e6, sharedElements: 0 }
    expect(predict(parted).computeMs).toBeCloseTo(16)
    // A product that costs the same for any few rows is paid twice.
    const flat = { products: [[100, 10]] as const }
    expect(predict({}, flat).computeMs).toBeCloseTo(10)
    expect(predict(parted, flat).computeMs).toBeCloseTo(20)
    // Four passes, two for the probes of each half of the batch.
    const four = { passes: 4, textParts: 2 }
    expect(predict({ ...four }, flat).computeMs).toBeCloseTo(40)
    expect(predict({ ...parted, ...four }, flat).computeMs).toBeCloseTo(40)
    expect(predict({ ...four }).computeMs).toBeCloseTo(16)
  })

  it('adds noise by versions and terms, heads by logits, attention by T^2', () => {
    const none = { partedElements: 1e6, sharedElements: 0, terms: 1.5 }
    const noise = { products: [[1, 0]] as const, version: 3, term: 2 }
    expect(predict(none, noise).computeMs).toBeCloseTo(2 * 3 + 1.5 * 2)
    const free = { products: [[1, 0]] as const }
    expect(predict({}, { ...free, logit: 1e3 }).computeMs).toBeCloseTo((16 * 100 * 1e3) / 1e6)
    const attention = [[0, 5e3]] as const
    const sequences = 2 * 2
    expect(predict({}, { ...free, attention }).computeMs).toBeCloseTo(
      (2 * sequences * 16 * 16 * 5e3) / 1e6,
    )
    expect(predict({}, { ...free, element: 1e3 }).computeMs).toBeCloseTo(
      (4 * 2 * 16 * 16 * 1e3) / 1e6,
    )
    expect(
      predict(
        { addend: { kind: 'kronecker', macs: 50 } },
        { ...free, addends: { 'low-rank': 0, kronecker: 1e3 } },
      ).computeMs,
    ).toBeCloseTo((16 * 50 * 1e3) / 1e6)
    expect(predict({ ready: false }, { ...free, widen: 2 }).computeMs).toBeCloseTo(2)
  })

  it('names what bounds the step, and the batch from which compute does', () => {
    // 2e6 bytes: 2 ms up, 0.5 ms from the page cache, 2000 ms from the disk.
    const made = predict({})
    expect(made).toMatchObject({ bound: 'compute', breakEvenBatch: 1, stepMs: made.computeMs })
    const up = predict({ traffic: bytes(20e6) })
    expect(up).toMatchObject({ bound: 'upload', uploadMs: 20, diskMs: 5, stepMs: 20 })
    // A batch of b takes 8b ms.
    expect(up.breakEvenBatch).toBe(3)
    const disk = predictStep(WORK, RATES, 'disk', 1e6)
    expect(disk).toMatchObject({ bound: 'disk', stepMs: 2000, breakEvenBatch: 250 })
    expect(predict({ sharedElements: 0 })).toMatchObject({ bound: 'upload', breakEvenBatch: null })
    // The first slab is waited for: 1 ms up, 0.25 ms read.
    expect(predict({ slabBytes: 1e6 }).stepMs).toBeCloseTo(made.computeMs + 1.25)
  })

  it('counts host work as compute where it shares the cores', () => {
    const fold = { foldElements: 1e6, foldTerms: 2 }
    const cost = { fold: 1, foldTerm: 3 }
    const gpu = predict(fold, cost)
    expect(gpu.computeMs).toBeCloseTo(16)
    const cpu = predict(fold, { ...cost, sharesCores: true, uploadRate: null })
    // Folds and copies by two threads.
    expect(cpu.computeMs).toBeCloseTo(16 + 7 / 2 + 0.5 / 2)
    expect(cpu.uploadMs).toBe(0)
  })
})

describe('trafficOf', () => {
  const pass = {
    passes: 1,
    streamed: { baseBytes: 10, foldedBytes: 20 },
    resident: { baseBytes: 6, foldedBytes: 12 },
  }
  it('is the base until the first fold, and resident slabs again after each', () => {
    expect(trafficOf({ steps: 1, foldEvery: Infinity, ...pass }).readBytes).toBe(16)
    expect(trafficOf({ steps: 2, foldEvery: Infinity, ...pass }).readBytes).toBe(13)
    // Steps 0 and 1 read the base, 2 to 5 folded weights; folds before steps 2 and 4.
    const six = trafficOf({ steps: 6, foldEvery: 2, ...pass })
    expect(six.readBytes).toBe(Math.round((2 * 10 + 4 * 20 + 6 + 2 * 12) / 6))
    expect(trafficOf({ steps: 1, foldEvery: 2, ...pass, passes: 3 }).readBytes).toBe(36)
    expect(six).toMatchObject({ uploadBytes: six.readBytes, downloadBytes: 0 })
  })
})

describe('the prediction of a plan', () => {
  it('says what more memory would give, and only where it gives something', async () => {
    const config = parseConfig({
      method: 'lozo',
      steps: 10,
      batchSize: 1,
      maxLength: 16,
      memory: 200 * 2 ** 20,
      device: 'cpu',
    })
    const planned = await planReport('synthetic:opt-125m', config, silent)
    const { json } = predictionReport(planned, RATES, 'disk', 1e6)
    expect(json.bound).toBe('disk')
    expect(json.faster!.device_peak_bytes).toBe(planned.ample.peakBytes)
    expect(json.faster!.step_ms).toBeLessThan(json.step_ms / 2)
    const compute = predictionReport(planned, { ...RATES, uploadRate: null }, 'disk', 1e15)
    expect(compute.json).toMatchObject({ bound: 'compute', faster: null })
    expect(compute.lines.at(-1)).toMatch(/would not be faster/)
  })
})
