// What a method owns: the scales of its probes, and the update that a step's losses mean. Each
// method is one file with its paper's equation on top; the algebra of directions is in
// perturbation.ts. A method holds no state: the trajectory (a list of updates) is the state.

import type { Update } from './perturbation.ts'

/** The hyper-parameters of one step. */
export interface StepScalars {
  /** 0-based step; part of the noise key. */
  readonly step: number
  readonly lr: number
  readonly eps: number
  readonly weightDecay: number
}

export interface Method {
  readonly name: string
  /** Scale of the raw noise for each probe. */
  scales(eps: number): number[]
  /** The projected gradient from the mean loss of each probe (f64). */
  projectedGrad(losses: readonly number[], eps: number): number
  /** The update that this projected gradient makes. */
  update(projectedGrad: number, at: StepScalars): Update
}
