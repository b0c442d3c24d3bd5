// Rows of embedding tables: gathered on the host by reading only the rows needed, perturbed there in
// one version per probe, and written to the device as activations.

import type { Tensor } from '../device/device.ts'
import type { Engine } from './engine.ts'
import type { Probes, RowView } from '../methods/method.ts'
import { DTYPE_BYTES } from '../util/dtypes.ts'

/** y[p, i] = `scale` times row indices[i] of the table as probe p sees it, for P probes; y is [R, cols]. */
export async function gather(
  engine: Engine,
  probes: Probes | null,
  P: number,
  name: string,
  indices: Uint32Array,
  scale: number,
  y: Tensor,
): Promise<void> {
  const { store, device, state } = engine
  const { cols } = y
  const view = state.rows(name, probes)
  const distinct = [...new Set(indices)]
  const rowBytes = cols * DTYPE_BYTES[store.dtype(name)]
  const raw = new Uint8Array(distinct.length * rowBytes)
  await Promise.all(
    distinct.map((row, i) => store.read(name, row, raw.subarray(i * rowBytes, (i + 1) * rowBytes))),
  )
  const made = new Map(
    distinct.map((row, i) => {
      const bytes = raw.subarray(i * rowBytes, (i + 1) * rowBytes)
      return [row, versions(engine, name, row, cols, bytes, view, P)]
    }),
  )
  const all = new Float32Array(P * indices.length * cols)
  for (let p = 0; p < P; p++) {
    indices.forEach((row, i) => all.set(made.get(row)![p]!, (p * indices.length + i) * cols))
  }
  if (scale !== 1) all.forEach((value, i) => (all[i] = value * scale))
  device.write(y, all)
}

/** One row in a version per probe; probes that see the same share an array. */
function versions(
  { kernel, store }: Engine,
  name: string,
  row: number,
  cols: number,
  raw: Uint8Array,
  view: RowView,
  P: number,
): Float32Array[] {
  const dtype = store.dtype(name)
  if (view.kind === 'dense') {
    const out = view.recipe.scales.map(() => new Float32Array(cols))
    kernel.apply(raw, dtype, row * cols, view.recipe, out)
    return Array.from({ length: P }, (_, p) => out[p] ?? out[0]!)
  }
  const base = new Float32Array(cols)
  kernel.change(raw, dtype, row * cols, cols, view.change, base)
  const bytes = new Uint8Array(base.buffer)
  return Array.from({ length: P }, (_, p) => {
    const terms = view.extra[p] ?? []
    if (terms.length === 0) return base
    const out = new Float32Array(cols)
    kernel.change(bytes, 'F32', row * cols, cols, { kind: 'factored', decay: 1, terms }, out)
    return out
  })
}
