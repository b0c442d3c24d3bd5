// Losses of a batch in as many passes over the weights as the budget asks for (cut.ts). The numbers are
// those of a single pass; each further one streams all weights again.

import type { ModelInput } from '../../models/model.ts'
import { partOf } from './cut.ts'
import type { Engine } from './engine.ts'
import type { Probe } from '../methods/method.ts'
import { forwardAll } from './forward.ts'
import { type Wanted } from './pass.ts'

/** Rows whose losses are wanted, b*T + t, in rising order. */
export type LossWanted = Extract<Wanted, { kind: 'loss' }>

/** Losses as `forward` returns them, in as many passes as the budget asks for. */
export async function lossesOf(
  engine: Engine,
  input: ModelInput,
  probe: Probe | null,
  { rows, targets }: Omit<LossWanted, 'kind'>,
): Promise<Float64Array[]> {
  const [batch, tokens] = [input.inputIds.length, input.inputIds[0]!.length]
  const probes = probe?.probes.length ?? 1
  const whole = { probes, batch, tokens }
  const cut = engine.cut(whole)
  const shape = partOf(whole, cut)
  const losses = Array.from({ length: probes }, () => new Float64Array(rows.length))
  for (let first = 0; first < batch; first += cut.batch) {
    const past = first + cut.batch
    const from = countBelow(rows, first * tokens)
    const to = countBelow(rows, past * tokens)
    if (from === to) continue
    const wanted: LossWanted = {
      kind: 'loss',
      rows: rows.subarray(from, to).map((row) => row - first * tokens),
      targets: targets.subarray(from, to),
    }
    const some = {
      inputIds: input.inputIds.slice(first, past),
      attentionMask: input.attentionMask.slice(first, past),
      ...(input.seen && { seen: input.seen.slice(first, past) }),
    }
    for (let p = 0; p < probes; p += cut.probes) {
      const seen = probe && { ...probe, probes: probe.probes.slice(p, p + cut.probes) }
      const [made] = await forwardAll(engine, [{ input: some, wanted }], seen, { shape })
      made!.forEach((ofProbe, i) => losses[p + i]!.set(ofProbe, from))
    }
  }
  return losses
}

/** How many of the rows are below `end`. */
const countBelow = (rows: Uint32Array, end: number) =>
  rows.reduce((count, row) => count + Number(row < end), 0)
