// One batch's pass through the model: its masks go to the device, the model runs over a `Run` (run.ts), and
// its losses come back. What opens the stream, and how many passes share it, is forward.ts.

import type { ModelInput, Run } from '../../models/model.ts'
import type { Engine } from './engine.ts'
import { createRun, type OnePass } from './run.ts'
import type { Lane } from './working-set.ts'

/** A pass that is ready for the model's forward. */
export interface BegunPass {
  readonly run: Run
  readonly input: ModelInput
  /** [P][M] once the model is through, in nats; empty where logits were wanted. */
  losses(): Promise<Float64Array[]>
}

/** Writes a batch's masks and makes what the model computes with. */
export function beginPass(engine: Engine, lane: Lane, pass: OnePass): BegunPass {
  const { device, model } = engine
  const { input, cached, wanted, probes } = pass
  const P = probes?.list.length ?? 1
  const [batch, tokens] = [input.inputIds.length, input.inputIds[0]!.length]
  const { prefixTokens: n = 0 } = model
  const keyMask = lane.keyMask(batch, n + tokens)
  device.write(keyMask, behindPrefix(input.attentionMask, n, n + tokens))
  if (cached && cached.past > 0) {
    device.write(lane.cache!.mask, behindPrefix(cached.mask, n, lane.cache!.capacity))
  }
  const at = { probes: P, rows: batch * tokens }
  const seen = input.inputIds.map((_, b) => n + (input.seen?.[b] ?? 0))
  const run = createRun(engine, lane, { ...pass, at, batch, tokens, keyMask })
  return {
    run,
    input: { ...input, seen },
    losses: async () =>
      wanted.kind === 'loss' ? readLosses(lane, device, P, wanted.rows.length) : [],
  }
}

/** Masks of sequences behind a prefix of n, each in a row of `width`; what is not there yet is 0. */
function behindPrefix(mask: readonly (readonly number[])[], n: number, width: number) {
  const all = new Float32Array(mask.length * width)
  mask.forEach((row, b) => {
    all.fill(1, b * width, b * width + n)
    all.set(row, b * width + n)
  })
  return all
}

/** lse - logit of the target, in f64, from the state (max, sum, target logit) of each row. */
async function readLosses(lane: Lane, device: Engine['device'], P: number, M: number) {
  const state = await device.read(lane.lossState, 0, P * M)
  return Array.from({ length: P }, (_, p) =>
    Float64Array.from({ length: M }, (_, i) => {
      const at = (p * M + i) * 3
      return state[at]! + Math.log(state[at + 1]!) - state[at + 2]!
    }),
  )
}
