// Benches of the project against itself: one process for each variant of a case, taking turns.

import { fileURLToPath } from 'node:url'
import { median, note } from './common.ts'
import { type RandomCase, type Settings, startSystem, type Timed } from './process.ts'

/** The command of our side (process.ts). */
export const OURS: readonly string[] = [
  ...[process.execPath, '--import', 'tsx'],
  fileURLToPath(new URL('steps.ts', import.meta.url)),
]

export type Variant = RandomCase & Settings

export interface Measured {
  /** Median step of every round, in ms. */
  readonly ms: readonly number[]
  readonly last: Timed
}

/** Times all variants, in turn, `rounds` times `steps` steps each; three steps warm each up. */
export async function inTurns(
  variants: readonly Variant[],
  { rounds, steps }: { readonly rounds: number; readonly steps: number },
): Promise<Measured[]> {
  const systems = variants.map((_, i) => startSystem(`zo2-${i}`, OURS))
  const ms = variants.map(() => [] as number[])
  const last: Timed[] = []
  try {
    for (const [i, variant] of variants.entries()) {
      last[i] = await systems[i]!.time({ ...variant, first: 0, steps: 3 })
    }
    for (let round = 0; round < rounds; round++) {
      for (const [i, variant] of variants.entries()) {
        last[i] = await systems[i]!.time({ ...variant, first: 3 + round * steps, steps })
        ms[i]!.push(median(last[i].ms))
      }
      note(`round ${round + 1}: ${ms.map((times) => times.at(-1)!.toFixed(0)).join(' ')} ms`)
    }
  } finally {
    await Promise.all(systems.map((system) => system.close()))
  }
  return variants.map((_, i) => ({ ms: ms[i]!, last: last[i]! }))
}
