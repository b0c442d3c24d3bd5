// The vocabulary head on the cpu device: an online log-sum-exp over tiles. Product, largest logit and
// sum of one tile are one library call whose logits stay inside it; tiles are joined here, row by row.

import type { Tile } from '../device.ts'
import type { Products, Start } from './products.ts'

/** Columns of the state: largest logit, sum of exp(logit - largest), logit of the target. */
const STATE = 3

/** Rows x [M, K], a vocabulary index and a state [3] for each. */
export interface HeadRows {
  readonly x: Float32Array
  readonly targets: Uint32Array
  readonly state: Float32Array
}

/** Takes the logits of one tile, weights [tile.rows, cols], into the state of every row. */
export async function addTile(
  ops: Products,
  { x, targets, state }: HeadRows,
  tile: Tile,
  weights: Float32Array,
  start?: Start,
): Promise<void> {
  const m = targets.length
  const [max, sum, target] = [new Float32Array(m), new Float32Array(m), new Float32Array(m)]
  const columns = new BigInt64Array(m)
  const inTile = (i: number) => {
    const column = targets[i]! - tile.row0
    return column >= 0 && column < tile.rows ? column : -1
  }
  for (let i = 0; i < m; i++) columns[i] = BigInt(Math.max(0, inTile(i)))
  const size = { m, n: tile.rows, k: x.length / m }
  await ops.head(x, weights, columns, { max, sum, target }, size, start)
  for (let i = 0; i < m; i++) {
    join(state, i, max[i]!, sum[i]!)
    if (inTile(i) >= 0) state[i * STATE + 2] = target[i]!
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
