// Batches: what the collators make of sequences, ragged or with options, what a batch must be, and the order in
// which a run draws its examples: each once per epoch, the same for the same seed.
// Alone: npx vitest run test/unit/batches.test.ts

import { describe, expect, it } from 'vitest'
import { checkBatch, collate, labelledTokens } from '../../src/data/batches.ts'
import { windows } from '../../src/data/examples.ts'
import {
  batchesPerEpoch,
  byCount,
  bySize,
  indicesForStep,
  permutation,
} from '../../src/data/order.ts'
import { IGNORED, type BatchInput, type Sequence } from '../../src/data/types.ts'

const sequence = (...ids: number[]): Sequence => ({
  inputIds: ids,
  labels: [IGNORED, ...ids.slice(1)],
})
/** Cheap numbers that look arbitrary, the same in every run. */
const arbitrary = (i: number, below: number) =>
  Math.floor((Math.sin(i * 12.9898) + 1) * 5e5) % below

describe('collating', () => {
  const rows = [sequence(2, 5, 6), sequence(2, 7)]

  it('pads on the right', () => {
    expect(collate(rows, { padId: 1, padTo: 'right' })).toEqual({
      inputIds: [
        [2, 5, 6],
        [2, 7, 1],
      ],
      attentionMask: [
        [1, 1, 1],
        [1, 1, 0],
      ],
      labels: [
        [-100, 5, 6],
        [-100, 7, -100],
      ],
    })
  })

  it('pads on the left', () => {
    expect(collate(rows, { padId: 1, padTo: 'left' })).toEqual({
      inputIds: [
        [2, 5, 6],
        [1, 2, 7],
      ],
      attentionMask: [
        [1, 1, 1],
        [0, 1, 1],
      ],
      labels: [
        [-100, 5, 6],
        [-100, -100, 7],
      ],
    })
  })

  it.each(['left', 'right'] as const)('loses nothing: unpadding (%s) gives it back', (padTo) => {
    for (let i = 1; i < 60; i++) {
      const sequences = Array.from({ length: 1 + (i % 5) }, (_, j) =>
        sequence(
          ...Array.from({ length: 2 + arbitrary(i + j, 9) }, (_, k) => arbitrary(i * k, 50)),
        ),
      )
      const batch = collate(sequences, { padId: 1, padTo })
      const real = (rows: Sequence['labels'][], row: number) =>
        rows[row]!.filter((_, t) => batch.attentionMask[row]![t] === 1)
      const inputIds = [...batch.inputIds]
      const labels = [...batch.labels]
      expect(
        sequences.map((_, row) => ({ inputIds: real(inputIds, row), labels: real(labels, row) })),
      ).toEqual(sequences)
      const lengths = sequences.map((s) => s.inputIds.length)
      const total = lengths.reduce((a, b) => a + b)
      expect(labelledTokens(batch)).toBe(total - sequences.length)
      expect(checkBatch(batch, { vocabSize: 50, maxPositions: Math.max(...lengths) })).toEqual(
        batch,
      )
    }
  })
})

describe('a batch from a user', () => {
  const limits = { vocabSize: 10, maxPositions: 4 }
  const good = {
    inputIds: [
      [2, 5, 1],
      [2, 6, 7],
    ],
    labels: [
      [2, 5, -100],
      [-100, 6, 7],
    ],
  }

  it('needs no mask: every position is then a real token', () => {
    expect(checkBatch(good, limits)).toEqual({
      ...good,
      attentionMask: [
        [1, 1, 1],
        [1, 1, 1],
      ],
    })
  })

  it.each<[string, unknown, RegExp]>([
    ['nothing', undefined, /a batch must be an object with inputIds and labels, not undefined/],
    ['no labels', { inputIds: [[1, 2]] }, /labels must be an array of one or more rows .* undefin/],
    ['no rows', { ...good, inputIds: [] }, /inputIds must be .* not an empty array/],
    [
      'a flat array',
      { ...good, inputIds: [1, 2] },
      /inputIds\[0\] must be a non-empty array .* 1$/,
    ],
    ['an empty row', { ...good, inputIds: [[], []] }, /inputIds\[0\] must be a non-empty array/],
    ['a tensor', { ...good, inputIds: new Float32Array(3) }, /inputIds must be .* a Float32Array/],
    [
      'uneven rows',
      { ...good, inputIds: [[1], [1, 2]] },
      /inputIds\[1\] has 2 .* inputIds\[0\] has 1/,
    ],
    ['too few labels', { ...good, labels: [[1, 2, 3]] }, /labels has 1 rows but inputIds has 2/],
    [
      'short labels',
      {
        ...good,
        labels: [
          [1, 2],
          [1, 2],
        ],
      },
      /labels\[0\] has 2 columns but .* has 3/,
    ],
    [
      'a large id',
      {
        ...good,
        inputIds: [
          [1, 2, 3],
          [1, 10, 3],
        ],
      },
      /inputIds\[1\]\[1\] must be an integer from 0 to 9, but it is 10/,
    ],
    [
      'a fraction',
      {
        ...good,
        inputIds: [
          [1, 0.5, 3],
          [1, 1, 3],
        ],
      },
      /inputIds\[0\]\[1\] .* 0.5/,
    ],
    [
      'a bigint',
      {
        ...good,
        inputIds: [
          [1, 2n, 3],
          [1, 1, 3],
        ],
      },
      /inputIds\[0\]\[1\] .* is 2/,
    ],
    [
      'a hole',
      {
        ...good,
        inputIds: [
          [1, , 3],
          [1, 1, 3],
        ],
      },
      /inputIds\[0\]\[1\] .* undefined/,
    ],
    [
      'a label -1',
      {
        ...good,
        labels: [
          [1, 2, -1],
          [1, 2, 3],
        ],
      },
      /labels\[0\]\[2\] must be -100 or an integer/,
    ],
    [
      'a mask of 2',
      {
        ...good,
        attentionMask: [
          [1, 1, 2],
          [1, 1, 1],
        ],
      },
      /attentionMask\[0\]\[2\] must be 0 or 1, but it is 2/,
    ],
    [
      'labels on padding',
      {
        ...good,
        attentionMask: [
          [1, 0, 1],
          [1, 1, 1],
        ],
      },
      /labels\[0\]\[1\] must be -100 where attentionMask is 0, but it is 5/,
    ],
    [
      'long rows',
      { inputIds: [[1, 2, 3, 4, 5]], labels: [[1, 2, 3, 4, 5]] },
      /rows have 5 tokens but the model has 4 positions: cut/,
    ],
    [
      'no labelled position',
      {
        ...good,
        labels: [
          [2, -100, -100],
          [2, -100, -100],
        ],
      },
      /no labelled position: .* column >= 1/,
    ],
  ])('with %s is refused in one sentence', (_, batch, message) => {
    expect(() => checkBatch(batch as BatchInput, limits)).toThrow(message)
  })
})

describe('the order of examples', () => {
  it('is a permutation for every length, another one for every seed and epoch', () => {
    for (const length of [0, 1, 2, 3, 10, 257]) {
      const sorted = Array.from({ length }, (_, i) => i)
      expect([...permutation(length, 5, 3)].sort((a, b) => a - b)).toEqual(sorted)
    }
    const orders = [
      [0, 0],
      [0, 1],
      [1, 0],
      [2 ** 32, 0],
      [2 ** 53 - 1, 2 ** 32 - 1],
    ].map(([seed, epoch]) => permutation(50, seed!, epoch!).join())
    expect(new Set(orders).size).toBe(orders.length)
  })

  // Computed by a separate program in Python with exact integers.
  it('never changes: runs and resumes of other versions see the same batches', () => {
    expect([...permutation(10, 0, 0)]).toEqual([2, 4, 0, 6, 7, 9, 8, 1, 3, 5])
    expect([...permutation(10, 42, 1)]).toEqual([7, 5, 8, 9, 4, 1, 3, 6, 0, 2])
    expect(indicesForStep(2, 4, 10, 42)).toEqual([1, 7, 7, 5])
  })

  it('puts every example everywhere equally often', () => {
    const length = 5
    const runs = 4000
    const counts = Array.from({ length }, () => new Array<number>(length).fill(0))
    for (let epoch = 0; epoch < runs; epoch++) {
      permutation(length, 7, epoch).forEach((example, i) => counts[i]![example]!++)
    }
    // Chi-square with (5-1)^2 = 16 degrees of freedom; 39.3 is exceeded once in a thousand times.
    const expected = runs / length
    const chiSquare = counts.flat().reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0)
    expect((chiSquare * (length - 1)) / length).toBeLessThan(39.3)
  })

  it.each([
    [4, 10],
    [10, 10],
    [7, 3],
    [1, 1],
    [16, 600],
  ])('in batches of %i out of %i goes through whole epochs', (batchSize, count) => {
    const epochs = 3
    const steps = Math.ceil((epochs * count) / batchSize)
    const line = Array.from({ length: steps }, (_, t) => indicesForStep(t, batchSize, count, 9))
    expect(line.every((batch) => batch.length === batchSize)).toBe(true)
    for (let epoch = 0; epoch < epochs; epoch++) {
      expect(line.flat().slice(epoch * count, (epoch + 1) * count)).toEqual([
        ...permutation(count, 9, epoch),
      ])
    }
    expect(indicesForStep(1, batchSize, count, 9)).toEqual(line[1] ?? expect.anything())
    expect(batchesPerEpoch(byCount(count, batchSize, 9), count)).toBeCloseTo(count / batchSize, 12)
  })

  it('in batches by size goes through whole epochs, each batch as full as it can be', () => {
    const sizes = Array.from({ length: 37 }, (_, i) => 1 + ((i * 13) % 29))
    const [most, seed] = [60, 5]
    const order = bySize(sizes, most, seed)
    const batches = Array.from({ length: 40 }, (_, batch) => order(batch))
    const line = batches.flat()
    expect(line.slice(0, 74)).toEqual([...permutation(37, seed, 0), ...permutation(37, seed, 1)])
    const tokens = (batch: readonly number[]) => batch.reduce((sum, i) => sum + sizes[i]!, 0)
    batches.slice(0, -1).forEach((batch, i) => {
      expect(tokens(batch)).toBeLessThanOrEqual(most)
      expect(tokens(batch) + sizes[batches[i + 1]![0]!]!).toBeGreaterThan(most)
    })
    // A batch is what it is whoever asks first, as in a resumed run.
    expect(bySize(sizes, most, seed)(33)).toEqual(batches[33])
    expect(bySize(sizes, most, seed)(2)).toEqual(batches[2])
    const epoch = batchesPerEpoch(order, 37)
    expect(batches.slice(0, Math.floor(epoch)).flat().length).toBeLessThanOrEqual(37)
    expect(batches.slice(0, Math.ceil(epoch)).flat().length).toBeGreaterThanOrEqual(37)
    // One that is larger than a batch comes alone.
    expect(bySize([5, 90, 5], 60, 0)(0).length).toBe(
      1 + Number(permutation(3, 0, 0)[0] !== 1 && permutation(3, 0, 0)[1] !== 1),
    )
  })
})

describe('windows of a text', () => {
  it.each([[[2]], [[]]])('after %j hold each of its tokens once, in order', (prefix) => {
    for (let length = 0; length < 40; length++) {
      for (let maxLength = 2; maxLength < 12; maxLength++) {
        const ids = Array.from({ length }, (_, i) => 10 + i)
        const cut = windows(ids, prefix, maxLength)
        const tokens = cut.flatMap(({ inputIds }) => inputIds.slice(prefix.length))
        // Without BOS, a last window of a single token could not be predicted.
        const lost = prefix.length === 0 && length % maxLength === 1 ? 1 : 0
        expect(tokens).toEqual(ids.slice(0, length - lost))
        for (const { inputIds, labels } of cut) {
          expect(inputIds.length).toBeLessThanOrEqual(maxLength)
          expect(inputIds.slice(0, prefix.length)).toEqual(prefix)
          expect(labels).toEqual([IGNORED, ...inputIds.slice(1)])
        }
        for (const { inputIds } of cut.slice(0, -1)) expect(inputIds).toHaveLength(maxLength)
      }
    }
  })
})
