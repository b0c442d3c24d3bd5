// Makes the weights that a device really multiplies with visible: a program that takes an identity through
// every matrix, so that its logits are the perturbed weights themselves.

import type { Model } from '../../models/model.ts'
import type { Engine } from '../../src/engine/engine.ts'
import type { Probes } from '../../src/methods/method.ts'
import { queryGroups } from '../../src/device/packed.ts'
import { forward, shapeOfPass } from '../../src/engine/forward.ts'
import type { Wanted } from '../../src/engine/head.ts'

/** Weights by matrix name, one version per probe, [rows, cols] in f32. */
export type Observed = Map<string, Float32Array[]>

interface Observer {
  readonly model: Model
  /** What the device makes of every matrix of `engine`, which must have been opened on `model`. */
  observe(engine: Engine, probe: Probes | null): Promise<Observed>
}

/** An observer of the model's streamed matrices. */
export function observerOf(model: Model): Observer {
  const widths = [...new Set(model.matrices.map((m) => m.cols))]
  const most = Math.max(...widths)
  const observer: Model = {
    ...model,
    buffers: widths.map((cols, memory) => ({ label: `identity ${cols}`, cols, memory, col0: 0 })),
    ops: model.matrices.map((matrix) => {
      const x = { cols: matrix.cols, buffer: widths.indexOf(matrix.cols) }
      return { kind: 'head', x, matrix }
    }),
  }
  return {
    model: observer,
    async observe(engine, probes) {
      const P = probes?.list.length ?? 1
      const observed: Observed = new Map(
        model.matrices.map(({ name, rows, cols }) => {
          return [name, Array.from({ length: P }, () => new Float32Array(rows * cols))]
        }),
      )
      const rows = Uint32Array.from({ length: most }, (_, i) => i)
      const sees = queryGroups([{ row0: 0, rows: most }])
      let [index, seen] = [0, 0]
      const wanted: Wanted = {
        kind: 'logits',
        rows,
        sink(tile, data) {
          const { name, cols, rows: all } = model.matrices[index]!
          observed.get(name)!.forEach((version, p) => {
            for (let column = 0; column < cols; column++) {
              for (let row = 0; row < tile.rows; row++) {
                version[(tile.row0 + row) * cols + column] =
                  data[(p * most + column) * tile.rows + row]!
              }
            }
          })
          if ((seen += tile.rows) === all) [index, seen] = [index + 1, 0]
        },
      }
      const pass = { input: { ids: rows, positions: rows }, sees, wanted }
      const shape = shapeOfPass(observer, pass, P)
      const { buffers } = engine.workingSet(shape)
      widths.forEach((cols, i) => {
        engine.device.write(buffers[i]!, identity({ probes: P, rows: most }, cols))
      })
      await forward(engine, pass, probes, { shape })
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
