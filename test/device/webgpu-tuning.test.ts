// Choosing matmul kernels for an adapter: what is measured, what is kept, what a damaged cache does,
// and that no choice lets a slab's size show in a result.
// Alone: npx vitest run test/device/webgpu-tuning.test.ts

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { benchKernels, kernelLines } from '../../src/plan/bench.ts'
import type { Weights } from '../../src/device/device.ts'
import { openAdapter, type OpenAdapter } from '../../src/device/webgpu/adapter.ts'
import { type ChoiceStore, openWebgpu } from '../../src/device/webgpu/device.ts'
import {
  candidates,
  type VariantChoice,
  choiceBy,
  SHAPE_CLASSES,
} from '../../src/device/webgpu/variants.ts'
import { kernelChoices } from '../../src/engine/tuned-kernels.ts'
import { expectLinearAlone } from '../helpers/alone.ts'
import { keeping, recipeOf, WORKLOAD } from '../helpers/devices.ts'
import { ADAPTER, SOFTWARE, plain, randoms, workload } from '../helpers/webgpu.ts'

let folder: string
const before = process.env['XDG_CACHE_HOME']
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'zo2-tuning-'))
  process.env['XDG_CACHE_HOME'] = folder
})
afterAll(() => {
  if (before === undefined) delete process.env['XDG_CACHE_HOME']
  else process.env['XDG_CACHE_HOME'] = before
  rmSync(folder, { recursive: true })
})

const cacheFile = () => join(folder, 'zo2', 'kernels.json')
const opened = async (choices: ChoiceStore) => {
  const device = await openWebgpu({ adapter: ADAPTER, choices })
  await device.close()
  return device.info.detail.split('; ').at(-1)!
}

describe('kernels of an adapter', () => {
  it('are measured once, kept, and measured again when the cache is damaged', async () => {
    const [first, second] = [await opened(kernelChoices), readFileSync(cacheFile(), 'utf8')]
    expect(first).toMatch(/^matmul \w+ \d+x\d+/)
    const kept = JSON.parse(second) as Record<string, VariantChoice>
    const [key] = Object.keys(kept)
    expect(key).toContain(ADAPTER)
    expect(Object.keys(kept[key!]!)).toEqual([...SHAPE_CLASSES])
    expect(await opened(kernelChoices)).toBe(first)
    expect(readFileSync(cacheFile(), 'utf8')).toBe(second)
    const adapterId = key!.slice(key!.indexOf(', ') + 2)
    for (const damaged of ['{"0.1.0', '[]']) {
      writeFileSync(cacheFile(), damaged)
      expect(await kernelChoices.read(adapterId)).toBeUndefined()
      await kernelChoices.write(adapterId, kept[key!]!)
      expect(readFileSync(cacheFile(), 'utf8')).toBe(second)
    }
    writeFileSync(cacheFile(), second.replaceAll('matmul', 'old'))
    await opened(kernelChoices)
    const again = JSON.parse(readFileSync(cacheFile(), 'utf8')) as Record<string, VariantChoice>
    expect(Object.values(again[key!]!).every((name) => name.startsWith('matmul'))).toBe(true)
  }, 60_000)

  it('are not measured without a store, nor where another process was faster', async () => {
    const adapter = await openAdapter(ADAPTER)
    adapter.close()
    const last = choiceBy((shape) => candidates(adapter, shape).at(-1)!.spec.name)
    const written: VariantChoice[] = []
    const answers = [{ many: 'nonsense' }, last]
    const named = await opened({
      read: () => Promise.resolve(answers.shift()),
      write: (_, choice) => Promise.resolve(void written.push(choice)),
    })
    expect(named).toContain(last.many)
    expect(written).toEqual([])
    const device = await openWebgpu({ adapter: ADAPTER })
    await device.close()
    expect(device.info.detail).toContain(candidates(adapter, 'many')[0]!.spec.name)
  })

  it('come as a table with one choice for each class', async () => {
    const made = await benchKernels({ device: 'webgpu', adapter: ADAPTER })
    expect(made.adapter).toBe(ADAPTER)
    for (const shape of SHAPE_CLASSES) {
      const rows = made.kernels.filter((row) => row.shape === shape)
      expect(rows.filter((row) => row.chosen)).toHaveLength(1)
      expect(rows.every((row) => row.gflops > 0)).toBe(true)
    }
    expect(kernelLines(made)).toHaveLength(made.kernels.length + 2)
    await expect(benchKernels({ device: 'cpu' })).rejects.toThrow(/leave out --device cpu/)
  })

  it('give the same bits whatever the slab, each of them', async () => {
    const adapter = await openAdapter(ADAPTER)
    adapter.close()
    const [cols, probes, rows] = [64, 2, 21]
    const tiles = [0, 1, 2].map((i) => ({ row0: 32 * i, rows: 32 }))
    const values = randoms(96 * cols, 5)
    for (const index of candidates(adapter, 'many').keys()) {
      const choice = choiceBy((shape) => candidates(adapter, shape).at(index)!.spec.name)
      const choices = { read: () => Promise.resolve(choice), write: () => Promise.resolve() }
      const device = await openWebgpu({ adapter: ADAPTER, choices })
      try {
        const at = { probes, rows }
        device.reserve(
          workload({ probes, rows, tileElements: 32 * cols, slabBytes: 4 * 96 * cols }),
        )
        const slot = device.slot('slots', 'w', 4 * 96 * cols)
        const x = device.tensor('activations', 'x', probes * rows, cols)
        const y = device.tensor('activations', 'y', probes * rows, 96)
        device.write(x, randoms(probes * rows * cols, 6))
        const multiply = async (slabs: (typeof tiles)[], part: Partial<Weights>) => {
          for (const slab of slabs) {
            const [first, count] = [slab[0]!.row0 * cols, slab.length * 32 * cols]
            const bytes = await device.stage(slot, 4 * count)
            bytes.set(new Uint8Array(values.buffer, 4 * first, 4 * count))
            device.commit(slot, {
              name: 'w',
              dtype: 'F32',
              cols,
              tiles: slab,
              recipe: plain,
              ...part,
            })
            await device.linear(x, slot, null, y, at)
          }
          return device.read(y, 0, probes * rows)
        }
        const recipe = recipeOf([2 ** -10, -(2 ** -10)], 0)
        for (const part of [{}, { recipe }]) {
          const whole = await multiply([tiles], part)
          expect(
            await multiply(
              tiles.map((tile) => [tile]),
              part,
            ),
          ).toEqual(whole)
        }
      } finally {
        await device.close()
      }
    }
  })
  it('for few rows give a row the bits of those for many, as it may be chosen', async () => {
    const adapter = await openAdapter(ADAPTER)
    adapter.close()
    for (const choice of await pairsOf(adapter)) {
      const choices = { read: () => Promise.resolve(choice), write: () => Promise.resolve() }
      const device = await openWebgpu({ adapter: ADAPTER, choices })
      try {
        device.reserve({ ...WORKLOAD, probes: 2 })
        for (const transposed of [false, true]) {
          await expectLinearAlone(device, 'F32', transposed)
          if (!adapter.halves) continue
          await expectLinearAlone(keeping('F16', device), 'BF16', transposed)
        }
      } finally {
        await device.close()
      }
    }
  }, 300_000)
})

/** Of a software adapter every pair of kernels, either of which it may choose; of a GPU what it does choose. */
async function pairsOf(adapter: OpenAdapter): Promise<VariantChoice[]> {
  if (!SOFTWARE) {
    const chosen: VariantChoice[] = []
    const write = (_: string, choice: VariantChoice) => Promise.resolve(void chosen.push(choice))
    await opened({ read: () => Promise.resolve(undefined), write })
    return chosen
  }
  const indices = [...candidates(adapter, 'many').keys()]
  const pairs = indices.flatMap((many) =>
    indices.filter((few) => few > many).map((few) => ({ many, few })),
  )
  return pairs.map(({ many, few }) =>
    choiceBy(
      (shape) => candidates(adapter, shape).at(shape.endsWith('many') ? many : few)!.spec.name,
    ),
  )
}
