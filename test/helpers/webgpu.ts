// What the webgpu tests share. They run on the best adapter of the machine: a GPU, else the
// software adapter that scripts/setup-vulkan.sh installs, or the one that ZO2_TEST_ADAPTER names
// (adapter.ts); without any they fail.

import type { Workload } from '../../src/device/memory.ts'
import { listAdapters } from '../../src/device/webgpu/device.ts'
import type { Recipe } from '../../src/noise/distributions.ts'
import { threefry2x32 } from '../../src/noise/threefry.ts'
import { NAMED, NO_TEST_ADAPTER } from './adapter.ts'

/** All of this machine, best first. */
export const adapters = await listAdapters()

const found = adapters.find(({ name }) => name.toLowerCase().includes(NAMED?.toLowerCase() ?? ''))
if (!found) throw new Error(NO_TEST_ADAPTER)

/** The adapter under test. */
export const { name: ADAPTER, software: SOFTWARE } = found

/** Seeded values in [-1, 1). */
export function randoms(count: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length: count },
    (_, i) => threefry2x32(seed, 1, i, 0)[0] / 2 ** 31 - 1,
  )
}

/** One version, the weights themselves. */
export const plain: Recipe = { terms: [], scales: [0] }

export function workload(part: Partial<Workload>): Workload {
  return {
    probes: 1,
    rows: 8,
    attention: { heads: 1, kvHeads: 1, headSize: 8, groups: 1, listed: 64, longest: 64 },
    tileElements: 4096,
    tileRows: 64,
    headRows: 8,
    targets: 1,
    terms: 4,
    slabBytes: 16384,
    slots: 2,
    versions: part.probes ?? 1,
    projectionCols: 0,
    addendElements: 0,
    halfCols: 0,
    ...part,
  }
}
