// Makes the weights that a device really multiplies with visible: a model whose only layer is an
// identity in front of every matrix, so that its logits are the perturbed weights themselves.

import type { Model } from '../../models/model.ts'
import type { Engine } from '../../src/engine/engine.ts'
import type { Probes } from '../../src/methods/method.ts'
import { forward } from '../../src/engine/forward.ts'

/** Weights by matrix name, one version per probe, [rows, cols] in f32. */
export type Observed = Map<string, Float32Array[]>

interface Observer {
  readonly model: Model
  /** What the device makes of every matrix of `engine`, which must have been opened on `model`. */
  observe(engine: Engine, probe: Probes | null): Promise<Observed>
}

/** An observer of the model's streamed matrices. */
export function observerOf(model: Model): Observer {
  const label = (cols: number) => `identity ${cols}`
  const widths = [...new Set(model.matrices.map((m) => m.cols))]
  const most = Math.max(...widths)
  let current = model.matrices[0]!
  const observer: Model = {
    ...model,
    buffers: widths.map((cols) => ({ label: label(cols), cols })),
    async forward(run) {
      for (const cols of widths) run.device.write(run.buffer(label(cols)), identity(run.at, cols))
      for (const matrix of model.matrices) {
        current = matrix
        await run.head(run.buffer(label(matrix.cols)), matrix.name)
      }
    },
  }
  return {
    model: observer,
    async observe(engine, probes) {
      const observed: Observed = new Map()
      const P = probes?.list.length ?? 1
      for (const { name, rows, cols } of model.matrices) {
        const version = () => new Float32Array(rows * cols)
        observed.set(name, Array.from({ length: P }, version))
      }
      const ones = [new Array<number>(most).fill(1)]
      await forward(engine, { inputIds: ones, attentionMask: ones }, probes, {
        kind: 'logits',
        rows: new Uint32Array(most),
        sink(tile, data) {
          const { name, cols } = current
          observed.get(name)!.forEach((version, p) => {
            for (let column = 0; column < cols; column++) {
              for (let row = 0; row < tile.rows; row++) {
                version[(tile.row0 + row) * cols + column] =
                  data[(p * most + column) * tile.rows + row]!
              }
            }
          })
        },
      })
      return observed
    },
  }
}

/** For each probe the identity [cols, cols], and zeros in the rows that are left. */
function identity(at: { probes: number; rows: number }, cols: number): Float32Array {
  const data = new Float32Array(at.probes * at.rows * cols)
  for (let p = 0; p < at.probes; p++) {
    for (let i = 0; i < cols; i++) data[(p * at.rows + i) * cols + i] = 1
  }
  return data
}
