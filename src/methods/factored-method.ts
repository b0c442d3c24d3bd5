// What the factored methods have in common as methods: the planner's bounds, and the start of their
// state from the sizes that one structure gives every matrix.

import type { Addend } from '../device/device.ts'
import { startFactored } from './factored.ts'
import type { Demand, MatrixShape, Method, MethodOptions } from './method.ts'
import type { Structure } from './structure.ts'

export interface FactoredRecipe {
  readonly name: string
  readonly addend: Addend['kind']
  readonly momentum: boolean
  of(options: MethodOptions, shape: MatrixShape): Structure
  /** Windows that are cheap to keep unfolded. */
  foldWindows(options: MethodOptions): number
  /** Of one matrix's addend with `windows` unfolded: projection columns, and factor elements. */
  sizes(
    options: MethodOptions,
    shape: MatrixShape,
    windows: number,
    probes: number,
  ): { cols: number; elements: number }
}

/** The method that a recipe describes. */
export function factoredMethod(recipe: FactoredRecipe): Method {
  const { name, addend } = recipe
  const foldWindows = (options: MethodOptions) => options.foldWindows ?? recipe.foldWindows(options)
  const beta = (options: MethodOptions) => (recipe.momentum ? options.momentum : 0)
  return {
    name,
    addend,
    resumesFromWeights: () => false,
    folds: (options, steps) => steps > options.window * foldWindows(options),
    beta,
    foldWindows,
    demand(options, matrices, probes): Demand {
      const F = foldWindows(options)
      let [projectionCols, addendElements, hostBytes] = [0, 0, 0]
      for (const shape of matrices) {
        if (!options.selection.trains(shape.name)) continue
        const { cols, elements } = recipe.sizes(options, shape, F, probes)
        projectionCols = Math.max(projectionCols, cols)
        addendElements = Math.max(addendElements, elements)
        const { leftSize, rightSize } = recipe.of(options, shape)
        const lefts = F + options.directions + (recipe.momentum ? 1 : 0)
        hostBytes += 4 * (lefts * leftSize + F * rightSize)
      }
      return { versions: () => 1, terms: 1, projectionCols, addendElements, hostBytes }
    },
    start: (options, matrices, kernel) =>
      startFactored(options, matrices, kernel, (shape) => recipe.of(options, shape), {
        foldWindows: foldWindows(options),
        beta: beta(options),
      }),
  }
}
