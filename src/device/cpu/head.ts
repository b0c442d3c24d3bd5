// The vocabulary head on the cpu device: an online log-sum-exp over tiles. Product, largest logit and
// sum of one tile are one library call whose logits stay inside it; tiles are joined here, row by row.

import type { Tile } from '../device.ts'
import { HEAD_ELEMENTS } from './memory.ts'
import type { CpuOps } from './ops.ts'

/** Columns of the state: largest logit, sum of exp(logit - largest), logit of the target. */
const STATE = 3

/** Rows of one probe: x [M, K], a vocabulary index and a state [3] for each. */
export interface HeadRows {
  readonly x: Float32Array
  readonly targets: Uint32Array
  readonly state: Float32Array
}

/** Takes the logits of one tile, weights [tile.rows, cols], into the state of every row. */
export async function addTile(
  ops: CpuOps,
  { x, targets, state }: HeadRows,
  tile: Tile,
  weights: Float32Array,
  cols: number,
): Promise<void> {
  const M = targets.length
  // Runs of equal length: a run of one row would take another kernel and get other bits.
  const runs = Math.ceil(M / Math.max(64, Math.floor(HEAD_ELEMENTS / tile.rows)))
  const step = Math.ceil(M / runs)
  for (let row = 0; row < M; row += step) {
    const m = Math.min(step, M - row)
    const [max, sum, target] = [new Float32Array(m), new Float32Array(m), new Float32Array(m)]
    const columns = new BigInt64Array(m)
    const inTile = (i: number) => {
      const column = targets[row + i]! - tile.row0
      return column >= 0 && column < tile.rows ? column : -1
    }
    for (let i = 0; i < m; i++) columns[i] = BigInt(Math.max(0, inTile(i)))
    const part = x.subarray(row * cols, (row + m) * cols)
    await ops.head(part, weights, columns, { max, sum, target }, { m, n: tile.rows, k: cols })
    for (let i = 0; i < m; i++) {
      join(state, row + i, max[i]!, sum[i]!)
      if (inTile(i) >= 0) state[(row + i) * STATE + 2] = target[i]!
    }
  }
}

/** (m, s) of a row with those of more logits; NaN in either stays, (-Infinity, 0) is neutral. */
function join(state: Float32Array, row: number, max: number, sum: number): void {
  const at = row * STATE
  const [oldMax, oldSum] = [state[at]!, state[at + 1]!]
  const top = Math.max(oldMax, max)
  state[at] = top
  state[at + 1] = oldSum * Math.exp(oldMax - top) + sum * Math.exp(max - top)
}
