// y[i] = x[indices[i]]: picks rows. x [rows, cols], y [n, cols]; equals torch.index_select on
// dimension 0. One invocation per element of y.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, forEachElement, suffix } from './elements.ts'

export const gatherKernel = (type: Element) =>
  defineKernel({
    name: `gatherRows${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }),
    bindings: { x: `read ${type}`, indices: 'read u32', y: `read_write ${type}` },
    params: { count: 'u32', cols: 'u32' }, // count: elements of y
    body: forEachElement(`y[i] = x[indices[i / params.cols] * params.cols + i % params.cols];`),
  })
