// `zo2 bench`: some steps on random tokens, of a checkpoint or of a synthetic one of true shape, and
// what they took: device bytes by category (the peak within a step), process memory, traffic, time.
// Nothing is trained that anybody keeps. `zo2 bench --tune`: the matmul kernels of a WebGPU adapter.

import type { Config } from '../config/options.ts'
import { evenTexts, packTexts } from '../data/packing.ts'
import { passesOf } from '../engine/split.ts'
import { randomExamples } from '../data/random-tokens.ts'
import { UserError } from '../util/errors.ts'
import { kernelChoices } from '../engine/tuned-kernels.ts'
import { memoryTable, type Reporter } from '../util/console.ts'
import type { Engine } from '../engine/engine.ts'
import { withEngine } from '../engine/open.ts'
import { type LoadedModel } from '../engine/load.ts'
import { zoStep } from '../train/step.ts'
import { formatBytes } from '../util/units.ts'

export interface BenchResult {
  readonly model: string
  readonly method: string
  readonly device: string
  readonly device_kind: string
  readonly layers: number
  readonly batch: number
  readonly tokens: number
  readonly passes_per_step: number
  readonly steps: number
  /** Median of all steps but the first; of the one step if there is only one. */
  readonly step_ms: number
  readonly tokens_per_second: number
  readonly device_peak_bytes: number
  readonly planned_peak_bytes: number
  readonly device_bytes: Readonly<Record<string, number>>
  readonly rss_peak_bytes: number
  /** Per step, the mean, as `zo2 plan` has it. */
  readonly read_bytes: number
  readonly upload_bytes: number
  readonly download_bytes: number
  readonly wait_ms: number
  readonly loss: number | null
  readonly by_step: readonly BenchStep[]
}

interface BenchStep {
  readonly ms: number
  /** Process memory after the step. */
  readonly rss_bytes: number
  /** What the process had the disk read, rather than found in the page cache; null where systems count otherwise. */
  readonly disk_bytes: number | null
}

/**
 * Runs config.steps steps of batchSize x maxLength random tokens, all labelled.
 * @throws UserError for a length beyond the model's positions
 */
export async function bench(
  loaded: LoadedModel,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<BenchResult> {
  const { maxLength } = config
  const { maxPositions } = loaded.model
  if (maxLength > maxPositions) {
    throw new UserError(`--max-length ${maxLength} exceeds the model's ${maxPositions} positions`)
  }
  return withEngine(loaded, config, { trains: true, report }, async (engine) => {
    const { split, plan } = showPlan(engine, config, report)
    const before = { ...engine.counters }
    const steps = await timedSteps(engine, config, report, stop)
    return {
      ...resultOf(engine, loaded, config, steps, before),
      passes_per_step: split.passes,
      planned_peak_bytes: plan.peakBytes,
    }
  })
}

function showPlan(engine: Engine, config: Config, report: Reporter) {
  const { batchSize: batch, maxLength: tokens, eps } = config
  const probes = engine.options.estimator.probes(eps).length
  const split = engine.split(packTexts(evenTexts(batch, tokens)), probes)
  const { plan } = engine.workingSet(split.shape)
  if (split.passes > 1) report.line(passesOf(split))
  memoryTable(plan.bytes).forEach((row) => report.line(row))
  return { split, plan }
}

interface Timed {
  readonly by_step: readonly BenchStep[]
  readonly loss: number | null
}

async function timedSteps(
  engine: Engine,
  config: Config,
  report: Reporter,
  stop: AbortSignal,
): Promise<Timed> {
  const { steps, lr, eps, weightDecay, seed, batchSize, maxLength } = config
  const { vocabSize } = engine.model
  const by_step: BenchStep[] = []
  let loss: number | null = null
  for (let step = 0; step < steps; step++) {
    stop.throwIfAborted()
    const [started, disk] = [performance.now(), diskBytes()]
    const examples = randomExamples(batchSize, maxLength, vocabSize, seed + step)
    const batches = [packTexts(examples)]
    const append = () => Promise.resolve()
    const entry = await zoStep(engine, { batches, step, lr, eps, weightDecay, append })
    const ms = Math.round(performance.now() - started)
    by_step.push({
      ms,
      rss_bytes: process.memoryUsage.rss(),
      disk_bytes: disk === null ? null : diskBytes()! - disk,
    })
    loss = entry.loss_plus
    report.line(`step ${step + 1}/${steps}  ${ms} ms`)
  }
  return { by_step, loss }
}

function resultOf(
  { device, counters }: Engine,
  { source, model }: LoadedModel,
  { method, batchSize, maxLength, steps }: Config,
  { by_step, loss }: Timed,
  before: Engine['counters'],
) {
  const times = by_step.map(({ ms }) => ms)
  const timed = (times.length > 1 ? times.slice(1) : times).toSorted((a, b) => a - b)
  const stepMs = timed[timed.length >> 1]!
  const peak = device.ledger.peak()
  const perStep = (name: keyof Engine['counters']) =>
    Math.round((counters[name] - before[name]) / steps)
  return {
    model: source,
    method,
    device: device.info.name,
    device_kind: device.info.kind,
    layers: model.layers,
    batch: batchSize,
    tokens: maxLength,
    steps,
    step_ms: Math.round(stepMs),
    tokens_per_second: Math.round((batchSize * maxLength * 10_000) / stepMs) / 10,
    device_peak_bytes: peak.totalBytes,
    device_bytes: { ...peak.bytes },
    rss_peak_bytes: process.resourceUsage().maxRSS * 1024,
    read_bytes: perStep('readBytes'),
    upload_bytes: perStep('uploadBytes'),
    download_bytes: perStep('downloadBytes'),
    wait_ms: perStep('waitMs'),
    loss,
    by_step,
  }
}

/** Linux counts blocks of 512 bytes, elsewhere they are of any size. */
const diskBytes = () => (process.platform === 'linux' ? process.resourceUsage().fsRead * 512 : null)

/** The lines of a result. */
export function benchLines(r: BenchResult): string[] {
  return [
    `${r.model}  ${r.method}  ${r.batch} x ${r.tokens} tokens, ${r.layers} layers`,
    `  step         ${(r.step_ms / 1000).toFixed(2)} s  (${r.tokens_per_second} tok/s, waited ${r.wait_ms} ms for weights)`,
    `  device peak  ${formatBytes(r.device_peak_bytes)} (planned ${formatBytes(r.planned_peak_bytes)}), process ${formatBytes(r.rss_peak_bytes)}`,
    `  per step     read ${formatBytes(r.read_bytes)}, up ${formatBytes(r.upload_bytes)}, down ${formatBytes(r.download_bytes)}`,
  ]
}

interface KernelBench {
  readonly adapter: string
  /** Shape class by kernel; the chosen ones are what the adapter's devices use from now on. */
  readonly kernels: readonly {
    readonly shape: string
    readonly variant: string
    readonly gflops: number
    readonly chosen: boolean
  }[]
}

/**
 * Measures the matmul kernels of a WebGPU adapter anew and keeps the fastest.
 * @throws UserError (usage) for the cpu device
 */
export async function benchKernels(
  config: Pick<Config, 'device' | 'adapter'>,
): Promise<KernelBench> {
  if (config.device === 'cpu') {
    throw new UserError('--tune is for WebGPU adapters: leave out --device cpu', { exitCode: 2 })
  }
  const { tuneWebgpu } = await import('../device/webgpu/device.ts')
  const { adapter, measured } = await tuneWebgpu(config.adapter, kernelChoices)
  const kernels = measured.map((each) => ({ ...each, gflops: Math.round(each.gflops * 10) / 10 }))
  return { adapter, kernels }
}

/** A table of kernels, one line each, the chosen ones marked. */
export function kernelLines({ adapter, kernels }: KernelBench): string[] {
  const rows = kernels.map(({ shape, variant, gflops, chosen }) =>
    [
      `  ${shape} rows`.padEnd(24),
      variant.padEnd(34),
      gflops.toFixed(1).padStart(9),
      chosen ? '  chosen' : '',
    ].join(''),
  )
  return [adapter, `${'  shape'.padEnd(24)}${'kernel'.padEnd(34)}${'GFLOP/s'.padStart(9)}`, ...rows]
}
