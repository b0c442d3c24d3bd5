// What a run writes down as it goes on, besides its journal: metrics.jsonl, evals.jsonl, device.json
// (the device, and its memory by category at the peak so far) and TensorBoard's files.

import { join } from 'node:path'
import type { Device } from '../device/device.ts'
import { appendLine, type StepLine } from '../run/folder.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { noEvents, openEventLog } from './tensorboard/writer.ts'

export interface RunRecords {
  /** The line of a step. */
  step(line: StepLine): Promise<void>
  /** The line of an evaluation. */
  evaluation(line: StepLine): Promise<void>
  close(): Promise<void>
}

/** device.json of a run. */
export interface DeviceRecord {
  readonly kind: string
  readonly name: string
  readonly detail: string
  readonly peak_bytes: number
  /** By category, at the peak. */
  readonly bytes: Readonly<Record<string, number>>
}

/**
 * Opens the records of the run in `dir`, which has made `steps` steps.
 * @throws UserError if they cannot be written
 */
export async function openRunRecords(
  dir: string,
  device: Pick<Device, 'info' | 'ledger'>,
  options: { readonly steps: number; readonly tensorboard: boolean },
): Promise<RunRecords> {
  const events = options.tensorboard ? await openEventLog(dir, options.steps) : noEvents
  let peakBytes = 0
  const recordDevice = async () => {
    const { totalBytes, bytes } = device.ledger.peak()
    if (totalBytes === peakBytes) return
    peakBytes = totalBytes
    const { kind, name, detail } = device.info
    const record: DeviceRecord = { kind, name, detail, peak_bytes: totalBytes, bytes }
    await writeTextAtomically(join(dir, 'device.json'), JSON.stringify(record, null, 2) + '\n')
  }
  return {
    async step(line) {
      await appendLine(join(dir, 'metrics.jsonl'), line)
      await events.step(line)
      await recordDevice()
    },
    async evaluation(line) {
      await appendLine(join(dir, 'evals.jsonl'), line)
      await events.evaluation(line)
      await recordDevice()
    },
    close: () => events.close(),
  }
}
