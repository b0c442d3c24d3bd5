// y += x in place over `count` elements. One invocation per element.
// Equals torch.add; f16 is added in f32 and rounded once.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, forEachElement, suffix } from './elements.ts'

export const addKernel = (type: Element) =>
  defineKernel({
    name: `add${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }),
    bindings: { x: `read ${type}`, y: `read_write ${type}` },
    params: { count: 'u32' },
    body: forEachElement(
      `${type === 'f32' ? 'y[i] += x[i]' : 'y[i] = half(f32(y[i]) + f32(x[i]))'};`,
    ),
  })
