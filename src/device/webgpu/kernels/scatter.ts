// y[indices[i]] = x[i]: places rows. x [n, cols], y [rows, cols]; indices are distinct. Equals
// torch's index_copy_ on dimension 0. One invocation per element of x.

import { defineKernel } from '../kernel.ts'
import { elementSpec, forEachElement, type RowTypes, stored, suffix } from './elements.ts'

/** Rows of one type, or f32 rows to f16 ones. */
export const scatterKernel = (types: RowTypes) =>
  defineKernel({
    name: `scatterRows${suffix(types)}`,
    ...elementSpec(types),
    bindings: { x: `read ${types.x}`, indices: 'read u32', y: `read_write ${types.y}` },
    params: { count: 'u32', cols: 'u32' }, // count: elements of x that are placed
    body: forEachElement(
      `y[indices[i / params.cols] * params.cols + i % params.cols] = ${types.x === types.y ? 'x[i]' : stored(types.y, 'x[i]')};`,
    ),
  })
