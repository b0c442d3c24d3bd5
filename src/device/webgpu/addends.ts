// Factored addends on the webgpu device: uploads the factors, takes rows through the right one, and
// gives the matmuls what their epilogue needs for the left one (kernels/addend.ts).

import { projectionCols, type Addend, type Rows } from '../device.ts'
import type { Commands } from './commands.ts'
import { scaleColumnsKernel } from './kernels/addend.ts'
import { blocksOf } from './kernels/matmul-common.ts'
import type { TensorOperand } from './handles.ts'
import type { Scratch } from './scratch.ts'
import type { MatmulOf } from './variants.ts'

/** Parameters of the epilogue. */
interface AddendParams {
  readonly left0: number
  readonly count: number
  readonly n1: number
  readonly m2: number
  readonly m1: number
  readonly region: number
}

export const NO_ADDEND: AddendParams = { left0: 0, count: 0, n1: 1, m2: 1, m1: 0, region: 0 }

export class Addends {
  readonly #commands: Commands
  readonly #matmulOf: MatmulOf
  readonly #scale
  #projected: { addend: Addend; rows: number } | undefined

  constructor(commands: Commands, matmulOf: MatmulOf) {
    this.#commands = commands
    this.#matmulOf = matmulOf
    this.#scale = commands.compile(scaleColumnsKernel)
  }

  /** Uploads both factors and leaves x [P*rows, K] after the right one in scratch.projection. */
  project(scratch: Scratch, x: TensorOperand, addend: Addend, at: Rows): void {
    this.#projected = { addend, rows: at.probes * at.rows }
    if (at.rows === 0) return
    const parts = [
      addend.right,
      addend.left,
      ...(addend.kind === 'low-rank' ? [addend.scales] : []),
    ]
    const total = parts.reduce((sum, part) => sum + part.length, 0)
    const { workload, projection, factors } = scratch
    const elements = addend.right.length + addend.left.length
    const bytes = 4 * at.probes * at.rows * projectionCols(addend)
    if (elements > workload.addendElements || bytes > projection.size || 4 * total > factors.size) {
      throw new RangeError(
        `an addend of ${elements} elements, ${projectionCols(addend)} columns projected, is larger ` +
          `than what was reserved: ${workload.addendElements} and ${workload.projectionCols}`,
      )
    }
    const all = new Float32Array(total)
    parts.reduce((from, part) => (all.set(part, from), from + part.length), 0)
    this.#commands.upload(factors, 0, all)
    if (addend.kind === 'low-rank') {
      const { rank, right } = addend
      const depth = right.length / rank
      this.#multiply(scratch, x, { rows: at.rows, cols: rank, depth }, at.probes, 0, 0)
      const scales0 = total - addend.scales.length
      const count = at.probes * at.rows * rank
      this.#commands.run(
        this.#scale,
        { factors, x: projection },
        { count, cols: rank, rows: at.rows, scales0 },
        this.#commands.flat(Math.ceil(count / 256)),
      )
      return
    }
    // x as [R*n1, n2] times each B_t^T [n2, m2].
    const { terms, n1, n2, m2 } = addend
    const region = at.probes * at.rows * n1 * m2
    for (let t = 0; t < terms; t++) {
      const size = { rows: at.rows * n1, cols: m2, depth: n2 }
      this.#multiply(scratch, x, size, at.probes, t * m2 * n2, t * region)
    }
  }

  /** What the epilogue needs; the addend must be the one projected last, with the same rows. */
  params(addend: Addend | undefined, at: Rows): AddendParams {
    if (!addend) return NO_ADDEND
    if (this.#projected?.addend !== addend || this.#projected.rows !== at.probes * at.rows) {
      throw new Error('an addend is used that was not projected just before, with the same rows')
    }
    const left0 = addend.right.length
    if (addend.kind === 'low-rank') {
      return { left0, count: addend.rank, n1: addend.rank, m2: 1, m1: 0, region: 0 }
    }
    const { terms, n1, m1, m2 } = addend
    const region = at.probes * at.rows * n1 * m2
    return { left0, count: terms * n1, n1, m2, m1, region }
  }

  #multiply(
    scratch: Scratch,
    x: TensorOperand,
    size: { rows: number; cols: number; depth: number },
    probes: number,
    weights0: number,
    col0: number,
  ): void {
    const block = this.#matmulOf(size.rows, false, [size.depth, weights0], {
      x: x.type,
      y: 'f32',
    })
    const { factors, projection } = scratch
    this.#commands.run(
      block.kernel,
      { x: x.buffer, w: factors, bias: x.buffer, projection: x.buffer, factors, y: projection },
      {
        ...size,
        probe_rows: size.rows,
        version: 0,
        width: size.cols,
        col0,
        flags: 0,
        weights0,
        first: 0,
        ...NO_ADDEND,
      },
      [...this.#commands.flat(blocksOf(block, size.rows, size.cols)), probes],
    )
  }
}
