// y = x[:, first .. first + cols): picks columns. x [rows, all], y [rows, cols]; equals
// torch.narrow on dimension 1. One invocation per element of y.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, forEachElement, suffix } from './elements.ts'

export const columnsKernel = (type: Element) =>
  defineKernel({
    name: `copyColumns${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }),
    bindings: { x: `read ${type}`, y: `read_write ${type}` },
    params: { count: 'u32', cols: 'u32', all: 'u32', first: 'u32' }, // count: elements of y
    body: forEachElement(
      `y[i] = x[i / params.cols * params.all + params.first + i % params.cols];`,
    ),
  })
