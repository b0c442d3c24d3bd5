// Where activation buffers lie: buffers that are never in use at the same time share memory. Pure;
// the planner counts by it, the working set allocates by it. Which buffers may share is the model's
// to say, since only its forward knows when each of them is in use.

import { VIEW_BYTES } from '../src/util/units.ts'

/** An activation buffer as the planner sees it; models/model.ts has the same fields. */
export interface PlanBuffer {
  readonly label: string
  readonly cols: number
  readonly inside?: string
}

/** One allocation and the buffers in it: the first is its owner, the others lie side by side. */
export interface Arena {
  readonly elements: number
  readonly places: readonly { readonly label: string; readonly cols: number; first: number }[]
}

/** The memory of all buffers for `rows` rows of each, of elements of 4 or 2 bytes; in whole words. */
export function arenas(
  buffers: readonly PlanBuffer[],
  rows: number,
  elementBytes: number,
): Arena[] {
  const view = VIEW_BYTES / elementBytes
  const word = 4 / elementBytes
  return buffers
    .filter((buffer) => buffer.inside === undefined)
    .map((owner) => {
      let first = 0
      const guests = buffers
        .filter((buffer) => buffer.inside === owner.label)
        .map(({ label, cols }) => {
          const place = { label, cols, first }
          first += Math.ceil((rows * cols) / view) * view
          return place
        })
      const places = [{ label: owner.label, cols: owner.cols, first: 0 }, ...guests]
      const own = Math.ceil((rows * owner.cols) / word) * word
      return { elements: Math.max(own, first), places }
    })
}
