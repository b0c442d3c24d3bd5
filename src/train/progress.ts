// What a run says of each step: its line of metrics.jsonl, and the progress line with the time left.
// When a step is taken, and what is logged when, is loop.ts's.

import type { Config } from '../config/options.ts'
import type { PackedBatch } from '../data/packing.ts'
import type { Engine } from '../engine/engine.ts'
import type { JournalEntry } from '../run/journal.ts'
import type { RunRecords } from '../records/run-records.ts'
import { progressLine, type Reporter } from '../util/console.ts'
import { stepMetrics } from '../run/folder.ts'

/** A line of metrics.jsonl. */
export type StepFigures = ReturnType<typeof stepMetrics> & {
  readonly tokens: number
  readonly step_ms: number
  readonly read_bytes: number
  readonly upload_bytes: number
  readonly download_bytes: number
  readonly wait_ms: number
  readonly device_peak_bytes: number
  readonly rss_bytes: number
}

interface Timed {
  readonly entry: JournalEntry
  readonly batches: readonly PackedBatch[]
  readonly stepMs: number
  /** The engine's counters before the step. */
  readonly before: Engine['counters']
}

/** Steps whose mean time tells how long the rest will take. */
const RECENT = 20

/** The progress of a run of `steps` steps on an engine, to its records and to a person. */
export function createProgress(
  { counters, device }: Engine,
  { steps }: Pick<Config, 'steps'>,
  records: RunRecords,
  report: Reporter,
) {
  const recent: number[] = []
  return {
    /** Writes the step's line. */
    async record({ entry, batches, stepMs, before }: Timed): Promise<StepFigures> {
      recent.push(stepMs)
      if (recent.length > RECENT) recent.shift()
      const figures = {
        ...stepMetrics(entry),
        tokens: batches.reduce((sum, { packed }) => sum + packed.ids.length, 0),
        step_ms: round(stepMs),
        read_bytes: counters.readBytes - before.readBytes,
        upload_bytes: counters.uploadBytes - before.uploadBytes,
        download_bytes: counters.downloadBytes - before.downloadBytes,
        wait_ms: round(counters.waitMs - before.waitMs),
        device_peak_bytes: device.ledger.peak().totalBytes,
        rss_bytes: process.memoryUsage.rss(),
      }
      await records.step(figures)
      return figures
    },
    /** Shows it: for good, or until the next one comes. */
    show(figures: StepFigures, forGood: boolean): void {
      const done = figures.step + 1
      const meanMs = recent.reduce((a, b) => a + b, 0) / recent.length
      const text = progressLine({
        done,
        steps,
        loss: figures.loss,
        grad: figures.projected_grad,
        lr: figures.lr,
        stepMs: figures.step_ms,
        tokens: figures.tokens,
        readBytes: figures.read_bytes,
        deviceBytes: figures.device_peak_bytes,
        leftSeconds: ((steps - done) * meanMs) / 1000,
      })
      if (forGood) report.line(text)
      else report.live(text)
    },
  }
}

/** Hundredths are all that a clock of milliseconds is good for. */
const round = (ms: number) => Math.round(ms * 100) / 100
