// The factored addend of one element of a product, in the epilogue of the matmuls. `line` is the row
// over all probes. With N = m1*m2 and n = i*m2 + j: sum over terms t and c < n1 of
// left[p][i, t*n1 + c] * projection[t][line, c*m2 + j].
// A low-rank addend is the case of one term with m2 = 1, n1 = rank and a left factor for all probes.

import { defineKernel } from '../kernel.ts'
import { forEachElement } from './elements.ts'

export const ADDEND_WGSL = /* wgsl */ `
fn addend(probe: u32, line: u32, n: u32) -> f32 {
  if (params.count == 0u) {
    return 0f;
  }
  let at = params.first + n;
  let i = at / params.m2;
  let j = at % params.m2;
  let left = params.left0 + (probe * params.m1 + i) * params.count;
  let projected = line * params.n1 * params.m2 + j;
  var sum = 0f;
  var term = 0u;
  for (var t = 0u; t < params.count; t += params.n1) {
    for (var c = 0u; c < params.n1; c++) {
      sum += factors[left + t + c] * projection[term + projected + c * params.m2];
    }
    term += params.region;
  }
  return sum;
}
`

/** x[i] *= factors[scales0 + p*cols + i % cols] for x [P*rows, cols]; one invocation per element. */
export const scaleColumnsKernel = defineKernel({
  name: 'scaleColumns',
  bindings: { factors: 'read f32', x: 'read_write f32' },
  params: { count: 'u32', cols: 'u32', rows: 'u32', scales0: 'u32' },
  body: forEachElement(/* wgsl */ `
  let probe = i / (params.cols * params.rows);
  x[i] *= factors[params.scales0 + probe * params.cols + i % params.cols];
`),
})
