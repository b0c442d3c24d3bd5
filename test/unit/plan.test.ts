// The planner without a device: tiles and slabs cover a matrix once and in order, no plan exceeds its
// budget, and a budget that is too small is refused with one that works.
// Alone: npx vitest run test/unit/plan.test.ts

import { describe, expect, it } from 'vitest'
import { createModel } from '../../models/index.ts'
import { plan, type Plan, type PlanInput } from '../../scheduler/plan.ts'
import { TILE_ELEMENTS } from '../../scheduler/tile-elements.ts'
import { slabTiles, tilesOf } from '../../scheduler/tiles.ts'
import { cpuMemory } from '../../src/device/cpu/memory.ts'
import type { Tile } from '../../src/device/device.ts'
import { webgpuMemory } from '../../src/device/webgpu/memory.ts'
import { UserError } from '../../src/util/errors.ts'
import { parseBytes } from '../../src/util/units.ts'
import { randomOf, type Random } from '../helpers/random.ts'
import { optConfig } from '../helpers/synthetic-opt.ts'

const MiB = 2 ** 20
const seeds = (count: number) => Array.from({ length: count }, (_, seed) => seed)

/** A run over 1 to 8 matrices of any shape, with room for everything. */
function randomInput(random: Random): PlanInput {
  const count = random.whole(1, 8)
  const matrices = Array.from({ length: count }, (_, block) => ({
    name: `m${block}`,
    rows: random.whole(1, 9000),
    cols: random.whole(1, 4000),
    block,
  }))
  const size = random.pick([2, 4])
  return {
    matrices,
    vectors: [random.whole(1, 10_000)],
    buffers: [
      { label: 'h', cols: 64, memory: 0, col0: 0 },
      { label: 'f', cols: random.whole(1, 500), memory: 1, col0: 0 },
      { label: 'q', cols: 64, memory: 1, col0: 0 },
    ],
    elementBytes: () => size,
    probes: random.pick([1, 2]),
    rows: random.whole(1, 512),
    wanted: random.whole(1, 512),
    targets: random.pick([1, 2, 6]),
    attention: {
      ...{ heads: 4, kvHeads: random.pick([4, 2]), headSize: 16 },
      ...{ groups: random.whole(1, 8), listed: 512, longest: 64 },
    },
    terms: random.whole(1, 16),
    versions: 1,
    projectionCols: random.pick([0, 32]),
    addendElements: random.pick([0, 1000]),
    activationBytes: random.pick([4, 2]),
    beside: random.pick([[], [{ label: 'keys', bytes: 20_000 }]]),
    memory: random.pick([cpuMemory, webgpuMemory()]),
    budgetBytes: 2 ** 40,
    slabBytes: random.whole(1, 256 * MiB),
    resident: 'none',
  }
}

/** Expects tiles or slabs to cover rows [0, rows) once and in order. */
function expectCover(parts: readonly Tile[], rows: number): void {
  let next = 0
  for (const part of parts) {
    if (part.row0 !== next || part.rows < 1) throw new Error(`row ${next} is not ${part.row0}`)
    next += part.rows
  }
  expect(next).toBe(rows)
}

const slabsOf = ({ slabs }: Plan, name: string) => slabs.filter((slab) => slab.name === name)

/** The budget that a refusal names, in bytes. */
function namedBudget(input: PlanInput): number {
  try {
    plan(input)
  } catch (error) {
    expect(error).toBeInstanceOf(UserError)
    const named = /smallest that works is (.+)$/.exec((error as Error).message)
    expect(named, (error as Error).message).not.toBeNull()
    return parseBytes(named![1]!)
  }
  throw new Error(`a budget of ${input.budgetBytes} bytes was accepted`)
}

describe('tilesOf', () => {
  it('covers every row once, in order, within the limit', () => {
    for (const seed of seeds(300)) {
      const random = randomOf(seed)
      const [rows, cols] = [random.whole(1, 20_000), random.whole(1, 2 ** 22)]
      const tiles = tilesOf(rows, cols)
      expectCover(tiles, rows)
      const [first] = tiles
      expect(tiles.slice(0, -1).every((tile) => tile.rows === first!.rows)).toBe(true)
      expect(tiles.at(-1)!.rows).toBeLessThanOrEqual(first!.rows)
      if (first!.rows > 1) expect(first!.rows * cols).toBeLessThanOrEqual(TILE_ELEMENTS)
    }
  })

  it('keeps a small matrix whole and cuts a large one into nearly equal heights', () => {
    expect(tilesOf(1000, 1000)).toEqual([{ row0: 0, rows: 1000 }])
    expect(tilesOf(12_600, 512).map((t) => t.rows)).toEqual([4208, 4208, 4184])
    expect(tilesOf(3, 2 ** 21).map((t) => t.rows)).toEqual([1, 1, 1])
  })
})

describe('slabTiles', () => {
  it('makes runs of whole tiles, as long as the limit allows, at least one tile each', () => {
    for (const seed of seeds(300)) {
      const random = randomOf(seed)
      const [rows, cols] = [random.whole(1, 50_000), random.whole(1, 5000)]
      const limit = random.whole(1, 2 ** 24)
      const tiles = tilesOf(rows, cols)
      const runs = slabTiles(tiles, cols, limit)
      expect(runs.flat()).toEqual(tiles)
      const elements = (run: readonly Tile[]) => run.reduce((sum, t) => sum + t.rows * cols, 0)
      runs.forEach((run, i) => {
        if (run.length > 1) expect(elements(run)).toBeLessThanOrEqual(limit)
        const next = runs[i + 1]?.[0]
        if (next) expect(elements(run) + next.rows * cols).toBeGreaterThan(limit)
      })
    }
  })
})

describe('plan', () => {
  it('streams every row of every matrix once, in the order of use, in tiles of the shape', () => {
    for (const seed of seeds(200)) {
      const input = randomInput(randomOf(seed))
      const made = plan(input)
      expect(made.slabs.map((slab) => slab.index)).toEqual([...made.slabs.keys()])
      expect([...new Set(made.slabs.map((slab) => slab.name))]).toEqual(
        input.matrices.map((m) => m.name),
      )
      for (const { name, rows, cols } of input.matrices) {
        const slabs = slabsOf(made, name)
        expectCover(slabs, rows)
        expect(slabs.flatMap((slab) => slab.tiles)).toEqual(tilesOf(rows, cols))
      }
    }
  })

  it('gives every slab a slot that holds it', () => {
    for (const seed of seeds(200)) {
      const random = randomOf(seed)
      const input = {
        ...randomInput(random),
        resident: random.pick(['none', 'auto', 'all'] as const),
      }
      const made = plan(input)
      for (const slab of made.slabs) {
        expect(slab.bytes).toBe(slab.rows * slab.cols * input.elementBytes(slab.name))
        expect(slab.bytes).toBeLessThanOrEqual(input.memory.maxSlabBytes)
        expect(slab.resident).toBe(slab.index < made.residentSlabs)
        if (!slab.resident) expect(slab.bytes).toBeLessThanOrEqual(made.slotBytes)
      }
      expect(made.slots > 0).toBe(made.residentSlabs < made.slabs.length)
    }
  })

  it('never exceeds the budget, and says what the peak is made of', () => {
    let planned = 0
    for (const seed of seeds(400)) {
      const random = randomOf(seed)
      const resident = random.pick(['none', 'auto', 'all'] as const)
      const input = { ...randomInput(random), resident, budgetBytes: random.whole(MiB, 2 ** 30) }
      try {
        const made = plan(input)
        planned++
        expect(made.peakBytes).toBeLessThanOrEqual(input.budgetBytes)
        const sum = Object.values(made.bytes).reduce((a, b) => a + b, 0)
        expect(made.peakBytes).toBe(sum)
      } catch (error) {
        expect(error).toBeInstanceOf(UserError)
      }
    }
    expect(planned).toBeGreaterThan(100)
  })

  it('refuses a budget that is too small and names the smallest that works', () => {
    for (const seed of seeds(300)) {
      const random = randomOf(seed)
      const resident = random.pick(['none', 'auto', 'all'] as const)
      const input = { ...randomInput(random), resident }
      const named = namedBudget({ ...input, budgetBytes: 1 })
      expect(plan({ ...input, budgetBytes: named }).peakBytes).toBeLessThanOrEqual(named)
      // Three digits are shown, rounded up: it is the smallest to within one per cent.
      expect(() => plan({ ...input, budgetBytes: named * 0.985 }), `seed ${seed}`).toThrow(
        UserError,
      )
    }
  })

  it('refuses a tile that the device cannot bind', () => {
    const input = randomInput(randomOf(1))
    const memory = { ...input.memory, maxSlabBytes: 8 }
    expect(() => plan({ ...input, memory })).toThrow(/one compute tile takes .* use another device/)
  })

  it('refuses what is larger than the device allocates at once, whatever the budget', () => {
    let refused = 0
    for (const seed of seeds(200)) {
      const random = randomOf(seed)
      const input = randomInput(random)
      const most = random.whole(1, 4_000_000)
      const memory = { ...input.memory, maxAllocationBytes: most }
      const rows = input.probes * input.rows
      const { workload } = plan(input)
      const largest = Math.max(
        ...input.buffers.map(({ cols }) => rows * cols * input.activationBytes),
        ...[...input.beside, ...memory.scratch(workload)].map(({ bytes }) => bytes),
        4 * input.probes * input.vectors[0]!,
        4 * input.probes * input.wanted * (2 + input.targets),
      )
      if (largest > most) {
        refused++
        expect(() => plan({ ...input, memory }), `seed ${seed}`).toThrow(
          / takes .*, and this device binds at most .* at once: use .*--max-length/,
        )
      } else if (largest < 0.8 * most) {
        expect(plan({ ...input, memory })).toEqual(plan(input)) // views may add some bytes
      }
    }
    expect(refused).toBeGreaterThan(50)
    expect(refused).toBeLessThan(200)
  })

  it('keeps no slab or all slabs resident when told so', () => {
    for (const seed of seeds(50)) {
      const input = randomInput(randomOf(seed))
      expect(plan(input).residentSlabs).toBe(0)
      const all = plan({ ...input, resident: 'all' })
      expect(all.residentSlabs).toBe(all.slabs.length)
      expect([all.slots, all.slotBytes]).toEqual([0, 0])
      expect(plan({ ...input, resident: 'auto' }).residentSlabs).toBe(all.slabs.length)
    }
  })

  it('keeps more resident the larger the budget, once the ring has its full size', () => {
    for (const seed of seeds(100)) {
      const input = randomInput(randomOf(seed))
      const ring = plan(input)
      const all = plan({ ...input, resident: 'all' })
      let before = 0
      for (let i = 0; i <= 20; i++) {
        const more = (i / 20) * Math.max(0, all.peakBytes - ring.peakBytes)
        const budgetBytes = Math.ceil(ring.peakBytes + more)
        const { residentSlabs, slabs } = plan({ ...input, resident: 'auto', budgetBytes })
        expect(slabs.length).toBe(ring.slabs.length)
        expect(residentSlabs, `seed ${seed}, ${i}`).toBeGreaterThanOrEqual(before)
        before = residentSlabs
      }
    }
  })

  it('plans twice the layers of OPT-175B in 4 GiB: more tiles than a call may have arguments', () => {
    const model = createModel(
      optConfig({ hidden: 12288, ffn: 49152, vocab: 50272, layers: 200, heads: 96 }),
    )
    const random = randomOf(0)
    const made = plan({
      ...randomInput(random),
      matrices: model.matrices,
      resident: 'auto',
      budgetBytes: 4096 * MiB,
      slabBytes: 64 * MiB,
    })
    expect(made.slabs.reduce((sum, slab) => sum + slab.tiles.length, 0)).toBeGreaterThan(150_000)
    expect(made.peakBytes).toBeGreaterThan(3500 * MiB)
  })
})
