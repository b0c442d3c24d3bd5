// What a method is to the runtime: it takes the updates of a run, one after another, and says how
// each tensor is seen by the probes of a step. Methods are one file each with their paper's equation
// on top; what they share is in dense.ts and factored.ts. Weights and devices are left to others.
//
// The trajectory (a list of updates) is all there is to know of a run: every state here is a pure
// function of it and of the run seed.

import type { Addend } from '../device/device.ts'
import type { Noise, Recipe } from '../noise/distributions.ts'
import type { Change, FactorTerm } from '../noise/factors.ts'
import type { NoiseKernel } from '../noise/wasm.ts'
import type { KronStrategy } from './kron-sizes.ts'
import type { Selection } from './selection.ts'

/** One probe: theta + scale * (direction number `direction` of this step), z of unit variance. */
export interface Probe {
  readonly direction: number
  readonly scale: number
}

/** The probes of a step. */
export interface Probes {
  readonly step: number
  readonly list: readonly Probe[]
}

/** What a step decided; each tensor that trains moves by -lr * sum_i grads[i]*z_i, after its decay. */
export interface Update {
  readonly step: number
  readonly lr: number
  /** One for each direction, divided by their number already. */
  readonly grads: readonly number[]
  /** 1 - lr*weight_decay as an f32; for matrices only. */
  readonly decay: number
}

/** A matrix as its file holds it. */
export interface MatrixShape {
  readonly name: string
  readonly rows: number
  readonly cols: number
  readonly transposed?: boolean
}

/** How single rows of a table are made on the host; `extra` is what each probe adds. */
export type RowView =
  | { readonly kind: 'dense'; readonly recipe: Recipe }
  | {
      readonly kind: 'factored'
      readonly change: Change
      readonly extra: readonly (readonly FactorTerm[])[]
    }

/** Gives what is to be folded into a matrix; asked once for each of them. */
export type Fold = (name: string) => Change

/** LoRA's tensors of one matrix: A [r, K] and B [N, r]. */
export interface LoraPair {
  readonly a: Float32Array
  readonly b: Float32Array
}

/** The state of one run's matrices. */
export interface TrainingState {
  /** Where LoRA's tensors are what trains. */
  readonly lora?: {
    readonly rank: number
    readonly alpha: number
    /** By the name of their matrix. */
    readonly pairs: ReadonlyMap<string, LoraPair>
  }
  /**
   * Makes ready for the probes of `step`; windows end here. Returns what must be folded first.
   * Called before `push` of the same step, in training and in replay alike.
   */
  begin(step: number): Fold | null
  /** What to fold before a pass when more than `spare` updates beyond the replay window are owed. */
  overdue(spare: number): Fold | null
  push(update: Update): void
  /** Whether the probes of this step see different weights in this matrix. */
  isPerturbed(step: number, name: string): boolean
  /** What is not folded yet. */
  change(name: string): Change
  /** How the device makes the weights of a matrix under the probes, */
  recipe(name: string, probes: Probes | null): Recipe
  /** and what it adds to its products. */
  addend(name: string, probes: Probes | null): Addend | null
  rows(name: string, probes: Probes | null): RowView
}

/** Bounds that the planner needs. */
export interface Demand {
  /** Versions of a matrix for P probes. */
  readonly versions: (probes: number) => number
  /** Terms of a recipe at most. */
  readonly terms: number
  /** Of the largest addend: columns of its projection, elements of both factors. */
  readonly projectionCols: number
  readonly addendElements: number
  /** Bytes of host memory that the state takes. */
  readonly hostBytes: number
}

export interface MethodOptions {
  readonly seed: number
  /** Of dense directions, and of the factors that others are made of. */
  readonly noise: Noise
  readonly selection: Selection
  /** K of dense methods. */
  readonly replayWindow: number
  /** float16: folds round, so that which updates are folded together decides the weights. */
  readonly overlayDtype: 'float32' | 'float16'
  /** Directions of a step. */
  readonly directions: number
  readonly rank: number
  /** nu: steps that share the right factor. */
  readonly window: number
  /** Windows kept in factors before they are folded; undefined: the method's own choice. */
  readonly foldWindows?: number | undefined
  readonly rankScaling: 'paper' | 'none'
  readonly kronStrategy: KronStrategy
  readonly kronMaxFactor: number
  /** beta of momentum methods. */
  readonly momentum: number
}

export interface Method {
  readonly name: string
  /** What the probes add to products with weights they share; null: each probe has weights of its own. */
  readonly addend: Addend['kind'] | null
  /**
   * Whether weights as they were after some steps are all that a run needs to go on. Else it is replayed
   * from the base: where what is folded together decides bits.
   */
  resumesFromWeights(options: MethodOptions): boolean
  /** Whether a run of so many steps can come to fold updates into the weights. */
  folds(options: MethodOptions, steps: number): boolean
  /** beta of the momentum of vectors; 0 without momentum. */
  beta(options: MethodOptions): number
  /** Windows after whose end updates are folded; Infinity where there are no windows. */
  foldWindows(options: MethodOptions): number
  demand(options: MethodOptions, matrices: readonly MatrixShape[], probes: number): Demand
  start(
    options: MethodOptions,
    matrices: readonly MatrixShape[],
    kernel: NoiseKernel,
  ): TrainingState
}
