// A row has the same bits alone and among others, on every device and by every operation: what a text's
// losses are may not depend on what else is in its batch, nor on how its rows are packed.
// Alone: npx vitest run test/device/alone.test.ts

import { afterAll, beforeAll, describe, it } from 'vitest'
import type { Activation, Device } from '../../src/device/device.ts'
import {
  CAUSAL,
  onlyQueries,
  rowsOf,
  queryGroups,
  type AttentionDims,
  type QueryGroups,
  type Sight,
} from '../../src/device/packed.ts'
import type { DType } from '../../src/util/dtypes.ts'
import {
  atOf,
  expectAlone,
  expectBits,
  expectLinearAlone,
  inputsOf,
  pick,
  PROBES,
  RECIPES,
  SHAPES,
} from '../helpers/alone.ts'
import { textsOf } from '../helpers/attention.ts'
import {
  filled,
  fixed,
  keeping,
  matrixOf,
  openInDtypes,
  scoped,
  throughSlabs,
  tilesOver,
  values,
  WORKLOAD,
} from '../helpers/devices.ts'
import { needsHalves } from '../helpers/needs.ts'

describe.each(openInDtypes())('a row on $name, activations $dtype', ({ name, open, dtype }) => {
  if (dtype === 'F16') needsHalves({ name })
  let device: Device
  beforeAll(async () => {
    device = keeping(dtype, await open())
    device.reserve({ ...WORKLOAD, probes: PROBES, halfCols: dtype === 'F16' ? 1024 : 0 })
  })
  afterAll(() => device?.close())

  const dtypes: DType[] = ['F32', 'F16', 'BF16']
  it.each(
    dtypes.flatMap((of) => [
      [of, 'as they are', false] as const,
      [of, 'transposed', true] as const,
    ]),
  )('linear, %s weights %s', async (of, _, transposed) => {
    await expectLinearAlone(device, of, transposed)
  })

  it.each([64, 100, 768])('layerNorm of %d columns', async (cols) => {
    await expectAlone(device, 'layerNorm', async (d, rows) => {
      const x = inputsOf(d, rows, cols)
      const y = d.tensor('activations', 'y', x.rows, cols)
      const [scale, bias] = [2, 3].map((seed) =>
        fixed(d, PROBES, cols, values(PROBES * cols, seed)),
      )
      await d.layerNorm(x, scale!, bias!, 1e-5, y, atOf(rows))
      return d.read(y, 0, y.rows)
    })
  })

  it.each([64, 96])('rmsNorm of %d columns and rope of their heads', async (cols) => {
    await expectAlone(device, 'rmsNorm, rope', async (d, rows) => {
      const x = inputsOf(d, rows, cols)
      const y = d.tensor('activations', 'y', x.rows, cols)
      const scale = fixed(d, PROBES, 32, values(PROBES * 32, 2))
      await d.rmsNorm(x, scale, 1e-5, y, atOf(rows))
      // Not real angles; each row has its own.
      const angles = rows.flatMap((row) => [...values(32 * (row + 1), 3).subarray(32 * row)])
      const table = fixed(d, rows.length, 32, Float32Array.from(angles))
      await d.rope(y, table, 32, atOf(rows))
      return d.read(y, 0, y.rows)
    })
  })

  const ACTIVATIONS: Activation[] = ['relu', 'gelu', 'gelu_new', 'silu']
  it.each(ACTIVATIONS)('%s, gate and add', async (kind) => {
    await expectAlone(device, kind, async (d, rows) => {
      const [x, y] = [inputsOf(d, rows, 37), inputsOf(d, rows, 37)]
      await d.activation(kind, x, atOf(rows))
      await d.add(x, y, atOf(rows))
      await d.gate(kind, x, y, atOf(rows))
      return d.read(y, 0, y.rows)
    })
  })

  it.each(dtypes)('crossEntropy of three targets, %s weights', async (of) => {
    for (const [V, K, addends] of SHAPES) {
      for (const [known, recipe] of Object.entries(RECIPES)) {
        const matrix = matrixOf(of, K, tilesOver(0, V, 32), recipe)
        for (const addend of [undefined, ...addends]) {
          await expectAlone(device, `${V} x ${K}, ${known}`, async (d, rows) => {
            const x = inputsOf(d, rows, K)
            const start = [...rows, ...rows].flatMap(() => [-Infinity, 0, 0, 0, 0])
            const state = fixed(d, x.rows, 5, Float32Array.from(start))
            const wanted = [...rows, ...rows].flatMap((row) => [row, row + 1, V - 1])
            const targets = Uint32Array.from(wanted, (id) => id % V)
            if (addend) await d.project(x, addend, atOf(rows))
            await throughSlabs(d, matrix, 1, (slot) =>
              d.crossEntropy(x, slot, targets, state, atOf(rows), { addend }),
            )
            return d.read(state, 0, x.rows)
          })
        }
      }
    }
  })

  it('logits', async () => {
    const matrix = matrixOf('F16', 64, tilesOver(0, 72, 32), RECIPES.perturbed)
    for (const wanted of matrix.tiles) {
      await expectAlone(device, `tile from ${wanted.row0}`, async (d, rows) => {
        const x = inputsOf(d, rows, 64)
        let found = new Float32Array(0)
        await throughSlabs(d, matrix, 3, (slot) =>
          d.logits(x, slot, atOf(rows), (tile, data) => {
            if (tile.row0 === wanted.row0) found = data.slice()
          }),
        )
        return found
      })
    }
  })

  describe.each([
    { heads: 4, kvHeads: 2, headSize: 16 },
    { heads: 1, kvHeads: 1, headSize: 80 },
    { heads: 3, kvHeads: 1, headSize: 5 },
    { heads: 2, kvHeads: 2, headSize: 132 },
  ])('attention of $heads heads of $headSize', (heads) => {
    const dims: AttentionDims = { ...heads, scale: heads.headSize ** -0.5 }

    /** Rows of y for q rows and k and v rows of such tokens. */
    const attend = (queries: readonly number[], keys: readonly number[], sees: QueryGroups) =>
      scoped(device, async (d) => {
        const of = (tokens: readonly number[], count: number, seed: number) => {
          const cols = count * dims.headSize
          const data = pick(values(PROBES * TOKENS * cols, seed, 1.5), tokens, TOKENS)
          return filled(d, PROBES * tokens.length, cols, data)
        }
        const [k, v] = [7, 8].map((seed) => of(keys, dims.kvHeads, seed))
        const q = of(queries, dims.heads, 6)
        const y = d.tensor('activations', 'y', q.rows, q.cols)
        await d.attention(q, k!, v!, y, PROBES, sees, dims)
        return d.read(y, 0, y.rows)
      })

    /** Of a text by itself. */
    const alone = (tokens: readonly number[], sight: Sight) =>
      attend(tokens, tokens, queryGroups(textsOf([tokens.length]), sight))

    it.each<[string, Sight, readonly Piece[]]>([
      ['causal, among others', CAUSAL, APART],
      ['causal, the beginning shared', CAUSAL, SHARING],
      ['in a window, among others', { causal: true, window: 11 }, APART],
      ['in a window, the beginning shared', { causal: true, window: 11 }, SHARING],
      ['not causal, among others', { causal: false }, APART],
    ])('%s', async (_, sight, pieces) => {
      const { tokens, segments } = packed(pieces)
      const batch = queryGroups(segments, sight)
      const lasts = segments.map(({ row0, rows }) => row0 + rows - 1)
      const some = onlyQueries(queryGroups(segments, sight), Uint32Array.from(lasts))
      // The same with keys and values in rows of another order, as those of a cache are.
      const elsewhere = {
        ...batch,
        groups: batch.groups.map((group) => ({
          ...group,
          keys: group.keys.map((row) => tokens.length - 1 - row),
        })),
      }
      const whole = await attend(tokens, tokens, batch)
      const reversed = await attend(tokens, tokens.toReversed(), elsewhere)
      expectBits(reversed, whole, 'keys in other rows')
      const asked = await attend(
        lasts.map((row) => tokens[row]!),
        tokens,
        some,
      )
      expectBits(asked, pick(whole, lasts, tokens.length), 'the last rows alone')
      for (const [index, { ends }] of pieces.entries()) {
        if (!ends) continue
        const rows = [...rowsOf(segments, index)]
        const want = await alone(
          rows.map((row) => tokens[row]!),
          sight,
        )
        expectBits(pick(whole, rows, tokens.length), want, `the text of piece ${index}`)
      }
    })
  })
})

/** A part of a batch: tokens, each a number that stands for its rows of q, k and v. */
interface Piece {
  readonly tokens: readonly number[]
  /** Index of the piece that it goes on from. */
  readonly parent?: number
  /** Whether a text ends here. */
  readonly ends: boolean
}

const range = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i)
const TOKENS = 200
const BEGINNING = range(0, 23)
const APART: readonly Piece[] = [
  [...BEGINNING, ...range(23, 17)],
  [...BEGINNING, ...range(40, 9)],
  range(50, 1),
  range(60, 8),
  range(70, 64),
  range(140, 5),
].map((tokens) => ({ tokens, ends: true }))
const SHARING: readonly Piece[] = [
  { tokens: range(140, 5), ends: true },
  { tokens: BEGINNING, ends: true },
  { tokens: range(40, 9), parent: 1, ends: true },
  { tokens: range(70, 64), ends: true },
  { tokens: range(23, 12), parent: 1, ends: false },
  { tokens: range(35, 5), parent: 4, ends: true },
]

function packed(pieces: readonly Piece[]) {
  const texts = textsOf(pieces.map(({ tokens }) => tokens.length))
  const segments = texts.map((segment, i) => ({
    ...segment,
    ...(pieces[i]!.parent !== undefined && { parent: pieces[i]!.parent }),
  }))
  return { tokens: pieces.flatMap(({ tokens }) => tokens), segments }
}
