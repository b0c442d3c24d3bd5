// The figures of a run that fit in a line: what the report's first table and `zo2 report --json` say.
// Reading the run's files is data.ts's.

import { smooth } from './charts.ts'
import type { Column, RunData } from './data.ts'

export interface RunFigures {
  readonly run: string
  readonly model: string
  readonly method: string
  readonly device: string | null
  /** Steps made, and asked for. */
  readonly steps: number
  readonly planned: number | null
  /** Steps whose loss was not finite. */
  readonly skipped: number
  /** Smoothed training loss of the last step. */
  readonly lastLoss: number | null
  readonly bestLoss: Score | null
  readonly bestAccuracy: Score | null
  readonly medianStepMs: number | null
  /** Share of all step time in which weights had not arrived yet. */
  readonly waitShare: number | null
  readonly tokensPerSecond: number | null
  readonly devicePeakBytes: number | null
  readonly rssPeakBytes: number | null
}

interface Score {
  readonly value: number
  /** Updates made before the evaluation. */
  readonly step: number
}

/** The figures of a run; what it has not come to yet is null. */
export function summaryOf(run: RunData): RunFigures {
  const { metrics, evals, evalSteps, options, device } = run
  const best = (column: Column, better: (a: number, b: number) => boolean) =>
    column.reduce<Score | null>(
      (found, value, i) =>
        value !== null && (!found || better(value, found.value))
          ? { value, step: evalSteps[i]! }
          : found,
      null,
    )
  // Lines that a kill took have neither.
  const timed = metrics.step_ms.flatMap((ms, i) =>
    ms === null ? [] : [{ ms, waitMs: metrics.wait_ms[i] ?? 0, tokens: metrics.tokens[i] ?? 0 }],
  )
  const sum = (of: (line: (typeof timed)[number]) => number) =>
    timed.reduce((total, line) => total + of(line), 0)
  const stepMs = sum(({ ms }) => ms)
  return {
    run: run.label,
    model: run.model,
    method: String(options['method'] ?? 'mezo-sgd'),
    device: device && `${device.kind}: ${device.name}`,
    steps: run.steps.length,
    planned: typeof options['steps'] === 'number' ? options['steps'] : null,
    skipped: metrics.loss.filter((loss) => loss === null).length,
    lastLoss:
      smooth(metrics.loss, Math.max(1, run.steps.length / 30)).findLast((v) => v !== null) ?? null,
    bestLoss: best(evals.loss, (a, b) => a < b),
    bestAccuracy: best(evals.accuracy, (a, b) => a > b),
    medianStepMs: median(timed.map(({ ms }) => ms)),
    waitShare: stepMs > 0 ? sum(({ waitMs }) => waitMs) / stepMs : null,
    tokensPerSecond: stepMs > 0 ? sum(({ tokens }) => tokens) / (stepMs / 1000) : null,
    devicePeakBytes: device?.peak_bytes ?? largest(metrics.device_peak_bytes),
    rssPeakBytes: largest(metrics.rss_bytes),
  }
}

const largest = (column: Column) =>
  column.reduce((most, value) => (value !== null && value > (most ?? 0) ? value : most), null)

function median(values: readonly number[]): number | null {
  if (values.length === 0) return null
  const sorted = values.toSorted((a, b) => a - b)
  const [low, high] = [sorted[(sorted.length - 1) >> 1]!, sorted[sorted.length >> 1]!]
  return (low + high) / 2
}
