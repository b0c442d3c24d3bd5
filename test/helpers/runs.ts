// Training runs for tests, without the command line: an engine on an open device, some steps, and
// the weights they make. Everything a comparison needs is returned as plain values.

import { createHash } from 'node:crypto'
import { mkdtempSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect } from 'vitest'
import { createModel } from '../../models/index.ts'
import { IGNORED, type Batch } from '../../src/data/types.ts'
import type { Device } from '../../src/device/device.ts'
import { parseConfig } from '../../src/config/options.ts'
import { designOf } from '../../src/engine/open.ts'
import { createEngine, type Engine, type EngineOptions } from '../../src/engine/engine.ts'
import { exportModel } from '../../src/export/folder.ts'
import type { JournalEntry } from '../../src/run/journal.ts'
import { createEstimator } from '../../src/methods/estimator.ts'
import { createMethod } from '../../src/methods/index.ts'
import type { Method, MethodOptions, Probes } from '../../src/methods/method.ts'
import { packBatch, packTexts } from '../../src/data/packing.ts'
import { lossesOf } from '../../src/engine/forward.ts'
import type { Totals } from '../../src/train/exchange.ts'
import { logitsOf } from '../../src/train/logits.ts'
import { scoreLosses, scoreOutputs, type Objective } from '../../src/train/objective.ts'
import { zoStep } from '../../src/train/step.ts'
import { openCheckpoint } from '../../src/checkpoint/open.ts'
import type { TestDevice } from './devices.ts'
import { METHOD_DEFAULTS } from './method-defaults.ts'

/** Room for everything, and all of it streamed. */
const LIMITS = parseConfig({
  memory: 2 ** 40,
  slab: 64 * 2 ** 20,
  resident: 'none',
  ram: 2 ** 40,
  threads: 1,
})

/** An open device. */
export interface OpenDevice {
  readonly device: Device
}

/** Runs `body` on a device of its own, closes it, and expects all of its memory back. */
export async function onFresh(
  { open }: TestDevice,
  body: (on: OpenDevice) => Promise<void>,
): Promise<void> {
  const device = await open()
  try {
    await body({ device })
  } finally {
    await device.close()
  }
  expect(device.ledger.total()).toBe(0)
  expect(Object.values(device.ledger.now).every((bytes) => bytes === 0)).toBe(true)
}

/** A folder that is removed after the test file. */
export function tempFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'zo2-test-'))
  afterAll(() => rm(dir, { recursive: true, force: true }))
  return dir
}

/** Options of engine and method side by side. */
export type RunOptions = Partial<Omit<EngineOptions, 'method' | 'methodOptions' | 'estimator'>> &
  Partial<Omit<MethodOptions, 'directions'>> & {
    readonly method?: string | Method
    readonly probes?: number
    readonly estimator?: 'two-sided' | 'one-sided'
  }

/** An engine that trains the checkpoint in `dir`; everything else has a default. */
export async function openRun(
  { device }: OpenDevice,
  dir: string,
  { method = 'mezo-sgd', probes = 1, estimator = 'two-sided', ...options }: RunOptions = {},
): Promise<Engine> {
  const checkpoint = await openCheckpoint(dir)
  const model = createModel(checkpoint.config)
  return createEngine(device, {
    ...designOf({ model }, LIMITS, true),
    checkpoint,
    method: typeof method === 'string' ? createMethod(method) : method,
    estimator: createEstimator(estimator, probes),
    methodOptions: { ...METHOD_DEFAULTS, ...options, directions: probes },
    updates: [],
    folded: 0,
    folds: true,
    scratchDir: tmpdir(),
    ...options,
  })
}

export interface Training {
  /** The micro-batches of every step. */
  readonly batches: readonly (readonly Batch[])[]
  readonly lr: number
  readonly eps: number
  readonly weightDecay: number
  /** Number of the first step; 0 if left out. */
  readonly first?: number
}

/** One step for each entry of `batches`; the journal of these steps. */
export async function trainSteps(engine: Engine, training: Training): Promise<JournalEntry[]> {
  const { batches, lr, eps, weightDecay, first = 0 } = training
  const journal: JournalEntry[] = []
  for (const [i, micro] of batches.entries()) {
    const append = async (entry: JournalEntry) => void journal.push(entry)
    const packed = micro.map((batch) => packBatch(batch))
    await zoStep(engine, { batches: packed, step: first + i, lr, eps, weightDecay, append })
  }
  return journal
}

/** Sum and count of a batch for each probe, as a step measures them. */
export async function totalsOf(
  engine: Engine,
  batch: Batch,
  probes: Probes,
  objective: Objective,
): Promise<Totals> {
  const packed = packBatch(batch)
  if (objective.kind !== 'losses') return scoreOutputs(engine, packed, probes, objective)
  return scoreLosses(await lossesOf(engine, packed, probes), packed, objective)
}

/** The weights that the engine exports, as f32: a digest of every tensor by its name. */
export async function exportedDigests(engine: Engine): Promise<Record<string, string>> {
  const digests: Record<string, string> = {}
  for (const [name, bytes] of await exportedTensors(engine)) {
    digests[name] = createHash('sha256').update(bytes).digest('hex').slice(0, 16)
  }
  return digests
}

/** The weights that the engine exports, little-endian f32 bytes by name. */
export async function exportedTensors(engine: Engine): Promise<Map<string, Uint8Array>> {
  const parent = mkdtempSync(join(tmpdir(), 'zo2-test-'))
  try {
    const dir = join(parent, 'model')
    await exportModel(engine, dir, { dtype: 'F32' })
    const { tensors } = await openCheckpoint(dir)
    const files = new Map<string, Uint8Array>()
    const result = new Map<string, Uint8Array>()
    const seen = new Set<string>()
    for (const entry of tensors.values()) {
      // A tied head is a second name, noted in the header, of bytes that are there once.
      const range = `${entry.file} ${entry.offsetBytes}`
      if (seen.has(range)) continue
      seen.add(range)
      if (!files.has(entry.file)) files.set(entry.file, await readFile(entry.file))
      const { offsetBytes, bytes } = entry
      // Copied: a Float32Array can be made of it.
      const part = files.get(entry.file)!.subarray(offsetBytes, offsetBytes + bytes)
      result.set(entry.name, Uint8Array.from(part))
    }
    return result
  } finally {
    await rm(parent, { recursive: true, force: true })
  }
}

/** A batch of seeded tokens; row b has b pads on its right. Every token but the first is labelled. */
export function syntheticBatch(rows: number, tokens: number, vocab: number, seed: number): Batch {
  const id = (b: number, t: number) => (seed * 7919 + b * 1299709 + t * 104729) % vocab
  const grid = <T>(cell: (b: number, t: number, real: boolean) => T) =>
    Array.from({ length: rows }, (_, b) =>
      Array.from({ length: tokens }, (_, t) => cell(b, t, t < tokens - (b % tokens))),
    )
  return {
    inputIds: grid((b, t, real) => (real ? id(b, t) : 1)),
    attentionMask: grid((_b, _t, real) => (real ? 1 : 0)),
    labels: grid((b, t, real) => (real && t > 0 ? id(b, t) : IGNORED)),
  }
}

/** Logits [V] after a text, from a pass over it alone. */
export async function logitsAfter(engine: Engine, text: readonly number[]): Promise<Float32Array> {
  const packed = packTexts([{ inputIds: text, labels: [] }], { whole: true })
  const last = text.length - 1
  const [byRow] = await logitsOf(engine, packed, Uint32Array.of(last), null)
  return byRow!.get(last)!
}
