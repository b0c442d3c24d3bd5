// The vocabulary head on the cpu device: an online log-sum-exp over tiles. Product, log of the sum
// of exp of one tile are one library call; tiles are joined here, row by row.

import type { Tile } from '../device.ts'
import type { Products } from './products.ts'

/** First columns of the state: largest logit, sum of exp(logit - largest); logits of the targets are behind. */
const SUMS = 2

/** Rows x [M, K], n vocabulary indices and a state [2 + n] for each. */
interface HeadRows {
  readonly x: Float32Array
  readonly rows: number
  readonly targets: Uint32Array
  readonly state: Float32Array
}

/** Takes the logits of one tile, weights [tile.rows, cols], into the state of every row. */
export async function addTile(
  ops: Products,
  { x, rows, targets, state }: HeadRows,
  tile: Tile,
  weights: Float32Array,
  memory: { readonly logits: Float32Array; readonly room: Float32Array },
  options: { readonly start: 'zero' | 'there'; readonly cap: number | undefined },
): Promise<void> {
  const [lse, target] = [new Float32Array(rows), new Float32Array(targets.length)]
  const columns = Int32Array.from(targets, (entry) => (holds(tile, entry) ? entry - tile.row0 : 0))
  const size = { m: rows, n: tile.rows, k: x.length / rows }
  await ops.head(x, weights, columns, { lse, target }, size, memory, options)
  const each = targets.length / rows
  for (let row = 0; row < rows; row++) {
    const at = row * (SUMS + each)
    join(state, at, lse[row]!)
    for (let i = 0, from = row * each; i < each; i++, from++) {
      if (holds(tile, targets[from]!)) state[at + SUMS + i] = target[from]!
    }
  }
}

const holds = ({ row0, rows }: Tile, entry: number) => entry >= row0 && entry < row0 + rows

/** (m, s) at `at` with the logits whose log of the sum of exp is `lse`; NaN in either stays. */
function join(state: Float32Array, at: number, lse: number): void {
  const [oldMax, oldSum] = [state[at]!, state[at + 1]!]
  const top = Math.max(oldMax, lse)
  state[at] = top
  state[at + 1] = oldSum * Math.exp(oldMax - top) + Math.exp(lse - top)
}
