// Programs of models: what a model states once is there as lists, in the order of use; rows that are in use at the
// same time never lie over each other, no operation reads one part of a memory and writes another, and memory is
// what it was when buffers were listed by hand.
// Alone: npx vitest run test/unit/program.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { programOf } from '../../models/build.ts'
import { createModel } from '../../models/index.ts'
import type { Model, Rows } from '../../models/model.ts'
import { placeRows, type Use } from '../../models/places.ts'
import { randomOf } from '../helpers/random.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
const modelOf = (folder: string) =>
  createModel(
    JSON.parse(readFileSync(join(FIXTURES, folder, 'config.json'), 'utf8')) as object as never,
  )

/** Columns of all memories. */
function columnsOf({ buffers }: Pick<Model, 'buffers'>): number {
  const sizes = new Map<number, number>()
  for (const { memory, col0, cols } of buffers) {
    sizes.set(memory, Math.max(sizes.get(memory) ?? 0, col0 + cols))
  }
  return [...sizes.values()].reduce((a, b) => a + b, 0)
}

describe('a program', () => {
  it('has the tensors of OPT in the order of their use, each with its shape', () => {
    const model = modelOf('layouts/pre-norm-tied')
    const block = model.matrices.filter((m) => m.block === 1)
    expect(block.map(({ name }) => name.replace('model.decoder.layers.1.', ''))).toEqual([
      ...['self_attn.q_proj.weight', 'self_attn.k_proj.weight', 'self_attn.v_proj.weight'],
      ...['self_attn.out_proj.weight', 'fc1.weight', 'fc2.weight'],
    ])
    expect(model.matrices.at(-1)).toMatchObject({
      name: 'model.decoder.embed_tokens.weight',
      block: model.layers,
      rows: model.vocabSize,
    })
    expect(model.tables.map(({ block: of }) => of)).toEqual([-1, -1])
    expect(new Set(model.vectors.map(({ name }) => name)).size).toBe(model.vectors.length)
    expect(model.matrices.map(({ block: of }) => of)).toEqual(
      model.matrices.map(({ block: of }) => of).toSorted((a, b) => a - b),
    )
  })

  it.each([
    ['layouts/pre-norm-tied', (m: Model, F: number) => 2 * m.hidden + Math.max(F, 3 * m.hidden)],
    ['gpt/gpt2-hub', (m: Model, F: number) => 5 * m.hidden + Math.max(F, 3 * m.hidden)],
  ] as const)('of %s takes no more memory than lists by hand did', (folder, byHand) => {
    const model = modelOf(folder)
    const F = Math.max(...model.buffers.map(({ cols }) => cols))
    expect(columnsOf(model)).toBeLessThanOrEqual(byHand(model, F))
  })

  it('is as long as its model, without getting slow', () => {
    const began = performance.now()
    const layers = 4096
    const { ops, buffers } = programOf({
      layers,
      embed: (b) => b.gather('table', 9, 8, 'ids'),
      block(b, h, i) {
        const x = b.layerNorm(h, `${i}.norm`)
        const q = b.linear(x, `${i}.q`, 8)
        const y = b.linear(
          b.attend(q, b.linear(x, `${i}.k`, 8), b.linear(x, `${i}.v`, 8)),
          `${i}.o`,
          8,
        )
        h = b.wanted(h)
        b.add(y, h)
        return h
      },
      head: (b, h) => b.head(h, 'table', 9),
    })
    expect(ops.length).toBe(1 + layers * 8 + 3)
    expect(buffers.length).toBeLessThan(12)
    expect(performance.now() - began).toBeLessThan(2000)
  })
})

describe('places', () => {
  it('keep apart what is in use together, and reads from writes of one operation', () => {
    for (let seed = 0; seed < 200; seed++) {
      const random = randomOf(seed)
      const drafts = Array.from({ length: random.whole(2, 14) }, (_, i) => ({
        label: String(i),
        cols: random.whole(1, 40),
      }))
      // Each is written once, from some of those before, and maybe changed in place later.
      const uses: Use[] = drafts.map((_, i) => {
        const reads =
          i === 0 ? [] : Array.from({ length: random.whole(1, 3) }, () => random.whole(1, i) - 1)
        return { reads: [...new Set(reads)], writes: [i] }
      })
      const changed = random.whole(1, drafts.length) - 1
      uses.push({ reads: [], writes: [changed] })
      const { buffers, bufferOf } = placeRows(drafts, uses)
      const at = (i: number) => buffers[bufferOf[i]!]!
      drafts.forEach(({ cols }, i) => expect(at(i).cols).toBe(cols))
      const span = (i: number) => {
        const used = uses.flatMap(({ reads, writes }, op) =>
          [...reads, ...writes].includes(i) ? [op] : [],
        )
        return [used[0]!, used.at(-1)!] as const
      }
      for (const [i] of drafts.entries()) {
        for (let j = 0; j < i; j++) {
          const [[a, b], [c, d]] = [span(i), span(j)]
          const [p, q] = [at(i), at(j)]
          const together = a <= d && c <= b && p.memory === q.memory
          const apart = p.col0 + p.cols <= q.col0 || q.col0 + q.cols <= p.col0
          expect(!together || apart, `seed ${seed}: ${j} and ${i}`).toBe(true)
        }
      }
      for (const { reads, writes } of uses) {
        const written = writes.map((i) => at(i).memory)
        for (const i of reads) expect(written, `seed ${seed}`).not.toContain(at(i).memory)
      }
    }
  })
})

/** Every row set that an operation of a program names has a buffer of its columns. */
it.each([
  'layouts/pre-norm-tied',
  'layouts/post-norm-proj',
  'layouts/untied',
  'gpt/gpt2-hub',
  'gpt/nanogpt',
])('the rows of %s have buffers of their columns', (folder) => {
  const { ops, buffers } = modelOf(folder)
  for (const op of ops) {
    for (const value of Object.values(op)) {
      if (typeof value !== 'object' || value === null || !('buffer' in value)) continue
      const rows = value as Rows
      expect(buffers[rows.buffer]!.cols).toBe(rows.cols)
    }
  }
})
