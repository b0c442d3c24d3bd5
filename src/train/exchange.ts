// The place where machines that share a run would meet: each has computed some micro-batches of a step,
// and all need the totals of every one. On one machine there is nothing to exchange.

import type { Total } from './loss.ts'

/** Sum and count of one micro-batch for each probe [P]. */
export type Totals = readonly Total[]

export interface Exchange {
  /**
   * All micro-batches' totals in their order, the same on every machine.
   * @param mine by number of the micro-batch, those that this machine has computed
   */
  gather(step: number, mine: ReadonlyMap<number, Totals>): Promise<readonly Totals[]>
}

/** One machine: what it computed is all there is. */
export const alone: Exchange = {
  gather: (_step, mine) => Promise.resolve([...mine.values()]),
}
