// Logits and losses against PyTorch's: the devices, the form of expected.json (test/fixtures/README.md)
// and the comparison, for the tests of every model.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import { fromPretrained, type ModelOptions, type ZoModel } from '../../src/index.ts'
import { NO_TEST_ADAPTER, TEST_ADAPTER } from './adapter.ts'

export const LOGIT_TOLERANCE = 1e-4
const LOSS_TOLERANCE = 1e-5

export interface Expected {
  readonly name: string
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
  readonly labels: number[][]
  readonly logits: (number[] | null)[][]
  readonly loss: number | null
}

export const devices: { name: string; options: ModelOptions }[] = [
  { name: 'cpu', options: { device: 'cpu' } },
  { name: 'webgpu', options: { device: 'webgpu', adapter: TEST_ADAPTER } },
]

export async function openOn(dir: string, options: ModelOptions): Promise<ZoModel> {
  try {
    return await fromPretrained(dir, options)
  } catch (cause) {
    if (options.adapter === undefined) throw cause
    throw new Error(NO_TEST_ADAPTER, { cause })
  }
}

export async function expectedOf<T>(dir: string, key: string): Promise<T> {
  const text = await readFile(join(dir, 'expected.json'), 'utf8')
  return (JSON.parse(text) as Record<string, T>)[key]!
}

/** Largest |found - expected| over real positions; NaN if anything anywhere is not finite. */
function worst(logits: Float32Array, expected: Expected): number {
  if (!logits.every(Number.isFinite)) return NaN
  const real = expected.logits.flat()
  const vocab = real.find((row) => row !== null)?.length ?? 0
  if (vocab > 0 && logits.length !== real.length * vocab) return NaN
  let most = 0
  real.forEach((row, i) => {
    row?.forEach((v, j) => (most = Math.max(most, Math.abs(v - logits[i * vocab + j]!))))
  })
  return most
}

/** Logits and loss of one batch. */
export async function expectBatch(model: ZoModel, expected: Expected) {
  const { input_ids: inputIds, attention_mask: attentionMask, labels } = expected
  const batch = { inputIds, attentionMask, labels }
  const { loss, logits } = await model.forward(batch, { logits: true })
  expect(worst(logits!, expected), `${expected.name}: logits`).toBeLessThan(LOGIT_TOLERANCE)
  if (expected.loss === null) expect(loss, expected.name).toBeNaN()
  else {
    const difference = Math.abs(loss - expected.loss)
    expect(difference, `${expected.name}: loss`).toBeLessThan(LOSS_TOLERANCE)
  }
}

/** Runs every batch of `dir`/expected.json through the model in `modelDir` on one device. */
export async function expectParity(dir: string, options: ModelOptions, modelDir = dir) {
  const batches = await expectedOf<Expected[]>(dir, 'batches')
  expect(batches.length).toBeGreaterThan(3)
  const model = await openOn(modelDir, options)
  try {
    for (const expected of batches) await expectBatch(model, expected)
  } finally {
    await model.close()
  }
  expect(model.device.ledger.total()).toBe(0)
}
