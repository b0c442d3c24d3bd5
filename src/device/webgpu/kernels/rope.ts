// Rotary position embeddings in place: of each head of `head` columns the pairs (i, i + half) turn by the angle that
// row r of `table` [rows, 2*half] has for them, cosines before sines; the columns behind stay. x
// [P*rows, cols]. Equals apply_rotary_pos_emb of Hugging Face. One invocation makes one pair.

import { defineKernel } from '../kernel.ts'
import { type Element, elementSpec, forEachElement, read, stored, suffix } from './elements.ts'

export const ropeKernel = (type: Element) =>
  defineKernel({
    name: `rope${suffix({ x: type, y: type })}`,
    ...elementSpec({ x: type, y: type }),
    bindings: { x: `read_write ${type}`, table: 'read f32' },
    params: {
      count: 'u32', // of all pairs
      rows: 'u32', // of one probe
      heads: 'u32',
      head: 'u32',
      half: 'u32',
    },
    body: forEachElement(/* wgsl */ `let pair = i % params.half;
    let head = i / params.half;
    let row = head / params.heads;
    let angle = row % params.rows * 2u * params.half + pair;
    let first = head * params.head + pair;
    let second = first + params.half;
    let c = table[angle];
    let s = table[angle + params.half];
    let a = ${read(type, 'x[first]')};
    let b = ${read(type, 'x[second]')};
    x[first] = ${stored(type, 'a * c - b * s')};
    x[second] = ${stored(type, 'b * c + a * s')};`),
  })
