// Where activation buffers lie: buffers that are never in use at the same time share memory. Pure;
// the planner counts by it, the working set allocates by it. Which buffers may share is the model's
// to say, since only its forward knows when each of them is in use.

import { VIEW_ELEMENTS } from '../src/units.ts'

/** An activation buffer as the planner sees it; models/model.ts has the same fields. */
export interface PlanBuffer {
  readonly label: string
  readonly cols: number
  readonly inside?: string
}

/** One allocation, f32, and the buffers in it: the first is its owner, the others lie side by side. */
export interface Arena {
  readonly elements: number
  readonly places: readonly { readonly label: string; readonly cols: number; first: number }[]
}

/** The memory of all buffers for `rows` rows of each. */
export function arenas(buffers: readonly PlanBuffer[], rows: number): Arena[] {
  return buffers
    .filter((buffer) => buffer.inside === undefined)
    .map((owner) => {
      let first = 0
      const guests = buffers
        .filter((buffer) => buffer.inside === owner.label)
        .map(({ label, cols }) => {
          const place = { label, cols, first }
          first += Math.ceil((rows * cols) / VIEW_ELEMENTS) * VIEW_ELEMENTS
          return place
        })
      const places = [{ label: owner.label, cols: owner.cols, first: 0 }, ...guests]
      return { elements: Math.max(rows * owner.cols, first), places }
    })
}
