// Texts as packed rows: every text can be read back from its rows, labels are predicted from the row before
// them, what texts begin with is there once, and what nobody asks for is not there.
// Alone: npx vitest run test/unit/packing.test.ts

import { describe, expect, it } from 'vitest'
import { collate } from '../../src/data/batches.ts'
import {
  checkLabels,
  evenTexts,
  packBatch,
  packExamples,
  packTexts,
  type PackedBatch,
} from '../../src/data/packing.ts'
import { IGNORED, type Sequence } from '../../src/data/types.ts'
import { randomOf } from '../helpers/random.ts'

/** A text whose last `answer` tokens are labelled. */
function text(ids: readonly number[], answer: number): Sequence {
  const labels = ids.map((id, i) => (i >= ids.length - answer ? id : IGNORED))
  return { inputIds: ids, labels }
}

const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i)

/** Checks rows against the texts, token by token; returns how many rows there are. */
function expectWhole(batch: PackedBatch, whole = false): number {
  const { packed, texts, textRows, counts } = batch
  let label = 0
  texts.forEach(({ inputIds, labels }, i) => {
    const rows = [...textRows[i]!]
    expect(rows.map((row) => packed.ids[row])).toEqual(inputIds.slice(0, rows.length))
    expect(rows.map((row) => packed.positions[row])).toEqual(rows.map((_, t) => t))
    const places = [...labels.keys()].filter((t) => t > 0 && labels[t] !== IGNORED)
    expect(counts[i]).toBe(places.length)
    expect(rows).toHaveLength(whole ? inputIds.length : (places.at(-1) ?? 0))
    for (const t of places) {
      expect([batch.rows[label], batch.targets[label]]).toEqual([rows[t - 1], labels[t]])
      label++
    }
  })
  expect(batch.rows).toHaveLength(label)
  let next = 0
  for (const [index, { row0, rows, parent }] of packed.segments.entries()) {
    expect(row0).toBe(next)
    expect(parent ?? -1).toBeLessThan(index)
    next += rows
  }
  expect(next).toBe(packed.ids.length)
  return next
}

describe('packed texts', () => {
  it('have a row for each token that something is predicted from', () => {
    expect(expectWhole(packTexts([text(range(5, 7), 3), text(range(50, 4), 1)]))).toBe(6 + 3)
    expect(expectWhole(packTexts([text(range(5, 7), 3)], { whole: true }), true)).toBe(7)
  })

  it('have a row for the last token too if a label follows it', () => {
    const followed = { inputIds: [4, 5, 6], labels: [IGNORED, 5, 6, 7] }
    expect(expectWhole(packTexts([followed]))).toBe(3)
  })

  it('share a prompt of eight tokens or more, and no row has a label of one token', () => {
    const prompt = range(100, 12)
    const batch = packTexts([text([...prompt, 1], 1), text([...prompt, 2], 1)])
    expect(expectWhole(batch)).toBe(12)
    expect(batch.packed.segments).toHaveLength(1)
    expect([...batch.rows]).toEqual([11, 11])
    expect([...batch.targets]).toEqual([1, 2])

    const longer = packTexts([text([...prompt, 1, 2, 3], 3), text([...prompt, 4, 5], 2)])
    expect(expectWhole(longer)).toBe(12 + 2 + 1)
    expect(longer.packed.segments.map(({ parent }) => parent)).toEqual([undefined, 0, 0])

    const shorter = packTexts([text([...range(0, 7), 8, 9], 2), text([...range(0, 7), 18, 9], 2)])
    expect(expectWhole(shorter)).toBe(8 + 8)
    expect(shorter.packed.segments.every(({ parent }) => parent === undefined)).toBe(true)
  })

  it('share demonstrations, and what lies behind them again', () => {
    const [shared, question] = [range(0, 20), range(40, 9)]
    const options = [60, 61, 62].map((id) => text([...shared, ...question, id, id + 10], 2))
    const other = text([...shared, ...range(80, 9), 7, 8], 2)
    const batch = packTexts([...options, other])
    expect(expectWhole(batch)).toBe(20 + 9 + 3 + 10)
    expect(batch.packed.segments.map(({ parent }) => parent)).toEqual([
      undefined,
      ...[0, 1, 1, 1],
      0,
    ])
  })

  it('may be the same, one the beginning of another, or without a label', () => {
    const long = range(0, 12)
    const texts = [text(long, 2), text(long, 2), text(long.slice(0, 10), 1), text([3, 4], 0)]
    const batch = packTexts(texts)
    expect(expectWhole(batch)).toBe(11)
    expect(batch.counts).toEqual([2, 2, 1, 0])
    expect(() => checkLabels(packTexts([text([1, 2], 0)]))).toThrow('no labelled token')
  })

  it('are read back from random trees', () => {
    for (let seed = 0; seed < 200; seed++) {
      const random = randomOf(seed)
      const texts: Sequence[] = []
      for (let n = random.whole(1, 12); n > 0; n--) {
        const from = texts.length > 0 && random.pick([true, false]) ? random.pick(texts) : undefined
        const kept = from
          ? from.inputIds.slice(0, random.whole(1, from.inputIds.length + 1) - 1)
          : []
        const ids = [
          ...kept,
          ...Array.from({ length: random.whole(1, 15) }, () => random.whole(1, 3)),
        ]
        const labels = ids.map((id) => (random.pick([true, false, false]) ? id : IGNORED))
        texts.push({ inputIds: ids, labels })
      }
      const whole = random.pick([true, false])
      const rows = expectWhole(packTexts(texts, { whole }), whole)
      expect(rows).toBeLessThanOrEqual(texts.reduce((sum, t) => sum + t.inputIds.length, 0))
    }
  })
})

describe('a rectangle', () => {
  const sequences = [text(range(5, 6), 2), text(range(50, 3), 1), text([9], 0)]

  it.each(['left', 'right'] as const)('padded on the %s is its own tokens', (padTo) => {
    const batch = packBatch(collate(sequences, { padId: 1, padTo }))
    expect(batch.texts).toEqual(sequences)
    expect(batch.packed).toEqual(packTexts(sequences).packed)
  })

  it('keeps a column of labels more, and what was given', () => {
    const given = {
      inputIds: [[4, 5], [6, 1]],
      attentionMask: [[1, 1], [1, 0]],
      labels: [[IGNORED, 5, 8], [IGNORED, IGNORED, 9]],
    } // prettier-ignore
    const batch = packBatch(given)
    expect([...batch.targets]).toEqual([5, 8, 9])
    expect(batch.given).toBe(given)
  })
})

describe('examples', () => {
  it('are texts, or their options are', () => {
    const options = [text([...range(0, 9), 1], 1), text([...range(0, 9), 2], 1)]
    const example = { ...options[1]!, options, answer: 1 }
    expect(packExamples([example]).texts).toHaveLength(1)
    const batch = packExamples([example, { ...example, right: [1, 0] }], { options: true })
    expect(batch.choices).toEqual([
      { first: 0, count: 2, right: [1] },
      { first: 2, count: 2, right: [1, 0] },
    ])
    expect(batch.packed.ids).toHaveLength(9)
  })
})

it('even texts share nothing and are labelled throughout', () => {
  const batch = packTexts(evenTexts(3, 20))
  expect(batch.packed.segments.map(({ rows }) => rows)).toEqual([19, 19, 19])
  expect(batch.rows).toHaveLength(57)
})
