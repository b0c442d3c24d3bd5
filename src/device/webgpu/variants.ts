// Which matmul kernels an adapter can run, which of them a device uses, and for which product. The
// choice is by shape class alone, so that it never depends on slabs; tune.ts measures it, default
// is the first candidate. Kernels themselves are in kernels/matmul*.ts.

import type { OpenAdapter } from './adapter.ts'
import type { Commands } from './commands.ts'
import type { Kernel } from './kernel.ts'
import { F32_ROWS, type RowTypes, suffix } from './kernels/elements.ts'
import type { MATMUL_PARAMS, MatmulBindings, MatmulSpec } from './kernels/matmul-common.ts'
import { matmulRegisters } from './kernels/matmul-registers.ts'
import { matmulShared } from './kernels/matmul-shared.ts'
import { matmulSubgroup, matmulTransposedSubgroup } from './kernels/matmul-subgroup.ts'
import { matmulTransposed } from './kernels/matmul-transposed.ts'

/** Up to this many rows of a version are few: what generation and small tasks multiply. */
export const FEW_ROWS = 16

/** Products for which one kernel is chosen each. */
export const SHAPE_CLASSES = ['many', 'few', 'transposed many', 'transposed few'] as const
export type ShapeClass = (typeof SHAPE_CLASSES)[number]

/** Names of kernels. */
export type VariantChoice = Readonly<Record<ShapeClass, string>>

const isTransposed = (shape: ShapeClass) => shape.startsWith('transposed')

/** Kernels that take any shape. */
const general = (types: RowTypes) => matmulShared(4, types)
const generalTransposed = (types: RowTypes) => matmulTransposed(types)

/**
 * The kernels worth measuring on an adapter, the one to use without measuring first. They come in the same
 * order for all types of rows; only those on f32 rows are measured, and what is chosen there is used
 * for all.
 */
export function candidates(
  { software, lanes }: Pick<OpenAdapter, 'software' | 'lanes'>,
  shape: ShapeClass,
  types = F32_ROWS,
): readonly MatmulSpec[] {
  const few = lanes > 0 ? [16, 8].map((rows) => ({ lanes, rows, types })) : []
  if (isTransposed(shape)) {
    const ours = few.map(matmulTransposedSubgroup)
    if (software) return ours.length > 0 ? ours : [generalTransposed(types)]
    return [generalTransposed(types), ...ours]
  }
  const ours = few.map(matmulSubgroup)
  if (software) return ours.length > 0 ? ours : [matmulRegisters(8, 1, types)]
  const registers = [4, 8].map((rows) => matmulRegisters(rows, 8, types))
  return [general(types), matmulShared(8, types), ...registers, ...ours]
}

/** What `choose` picks in every class. */
export const choiceBy = (choose: (shape: ShapeClass) => string): VariantChoice =>
  Object.fromEntries(SHAPE_CLASSES.map((shape) => [shape, choose(shape)])) as VariantChoice

export const defaultChoice = (adapter: OpenAdapter): VariantChoice =>
  choiceBy((shape) => candidates(adapter, shape)[0]!.spec.name)

/** True if `found` names a candidate of the adapter in every class. */
export function isChoice(adapter: OpenAdapter, found: unknown): found is VariantChoice {
  if (typeof found !== 'object' || found === null) return false
  const names = found as Readonly<Record<string, unknown>>
  return SHAPE_CLASSES.every((shape) =>
    candidates(adapter, shape).some(({ spec }) => spec.name === names[shape]),
  )
}

/** A compiled matmul with the rows and columns that one workgroup makes. */
interface Matmul extends MatmulSpec {
  readonly kernel: Kernel<MatmulBindings, typeof MATMUL_PARAMS>
}

/** Compiles kernels by name, each once. */
function createCompiler(commands: Commands) {
  const made = new Map<string, Matmul>()
  return (matmul: MatmulSpec): Matmul => {
    let found = made.get(matmul.spec.name)
    if (!found) {
      found = { ...matmul, kernel: commands.compile(matmul.spec) }
      made.set(matmul.spec.name, found)
    }
    return found
  }
}

/** Sizes that a kernel of vec4 loads wants to be multiples of four. */
type Sizes = readonly number[]

/** The matmul for a product: rows of a version, whether its weights are transposed, its sizes, its rows' types. */
export type MatmulOf = (rows: number, transposed: boolean, sizes: Sizes, types: RowTypes) => Matmul

export function createMatmuls(
  commands: Commands,
  adapter: OpenAdapter,
  choice: VariantChoice,
): MatmulOf {
  const compiled = createCompiler(commands)
  const make = (types: RowTypes) => {
    const chosen = (shape: ShapeClass) => {
      const index = candidates(adapter, shape).findIndex(({ spec }) => spec.name === choice[shape])
      return compiled(candidates(adapter, shape, types)[index]!)
    }
    return {
      plain: { many: chosen('many'), few: chosen('few'), any: compiled(general(types)) },
      transposed: {
        many: chosen('transposed many'),
        few: chosen('transposed few'),
        any: compiled(generalTransposed(types)),
      },
    }
  }
  // Those on f16 rows when they are first asked for: not every adapter has f16.
  const made = new Map([[suffix(F32_ROWS), make(F32_ROWS)]])
  return (rows, isTransposed, sizes, types) => {
    let all = made.get(suffix(types))
    if (!all) made.set(suffix(types), (all = make(types)))
    const { many, few, any } = all[isTransposed ? 'transposed' : 'plain']
    const matmul = rows > FEW_ROWS ? many : few
    return sizes.every((size) => size % matmul.multiple === 0) ? matmul : any
  }
}
