// The vocabulary head on the cpu device: an online log-sum-exp over tiles. Product, log of the sum
// of exp of one tile are one library call; tiles are joined here, row by row.

import type { Tile } from '../device.ts'
import type { Products } from './products.ts'

/** Columns of the state: largest logit, sum of exp(logit - largest), logit of the target. */
const STATE = 3

/** Rows x [M, K], a vocabulary index and a state [3] for each. */
interface HeadRows {
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
  memory: { readonly logits: Float32Array; readonly room: Float32Array },
  options: { readonly start: 'zero' | 'there' },
): Promise<void> {
  const m = targets.length
  const [lse, target] = [new Float32Array(m), new Float32Array(m)]
  const columns = new Int32Array(m)
  const inTile = (i: number) => {
    const column = targets[i]! - tile.row0
    return column >= 0 && column < tile.rows ? column : -1
  }
  for (let i = 0; i < m; i++) columns[i] = Math.max(0, inTile(i))
  const size = { m, n: tile.rows, k: x.length / m }
  await ops.head(x, weights, columns, { lse, target }, size, memory, options)
  for (let i = 0; i < m; i++) {
    join(state, i, lse[i]!)
    if (inTile(i) >= 0) state[i * STATE + 2] = target[i]!
  }
}

/** (m, s) of a row with the logits whose log of the sum of exp is `lse`; NaN in either stays. */
function join(state: Float32Array, row: number, lse: number): void {
  const at = row * STATE
  const [oldMax, oldSum] = [state[at]!, state[at + 1]!]
  const top = Math.max(oldMax, lse)
  state[at] = top
  state[at + 1] = oldSum * Math.exp(oldMax - top) + Math.exp(lse - top)
}
