// Which WebGPU adapter tests run on, and what it has. ZO2_TEST_ADAPTER is a part of its name; without
// it tests of devices run on lavapipe, which scripts/setup-vulkan.sh installs, and tests of the webgpu
// device alone on the best adapter of the machine (webgpu.ts). What it lacks is skipped by name (needs.ts).

import { openAdapter, TIMESTAMPS } from '../../src/device/webgpu/adapter.ts'

/** A part of the adapter's name, if one is named. */
export const NAMED = process.env['ZO2_TEST_ADAPTER']

/** The adapter of lavapipe, as it calls itself. */
export const DEFAULT_ADAPTER = 'llvmpipe'

/** What --adapter is given. */
export const TEST_ADAPTER = NAMED ?? DEFAULT_ADAPTER

/** What to do where that is not to be had. */
export const NO_TEST_ADAPTER = `no WebGPU adapter "${TEST_ADAPTER}": run "bash scripts/setup-vulkan.sh", or name one with ZO2_TEST_ADAPTER`

/** What not every adapter has. */
export type Feature = 'shader-f16' | 'subgroups' | typeof TIMESTAMPS

/** The features that a device on the adapter has. */
async function featuresOf(name: string): Promise<ReadonlySet<Feature>> {
  const adapter = await openAdapter(name, true)
  try {
    const { gpu, halves, lanes } = adapter
    const has: Readonly<Record<Feature, boolean>> = {
      'shader-f16': halves,
      subgroups: lanes > 0,
      [TIMESTAMPS]: gpu.features.has(TIMESTAMPS),
    }
    return new Set((Object.keys(has) as Feature[]).filter((feature) => has[feature]))
  } finally {
    adapter.close()
  }
}

const known = new Map<string, Promise<ReadonlySet<Feature>>>()

/** Why a test that needs the feature is skipped on the adapter; null if it has it. */
export async function lacking(feature: Feature, adapter = TEST_ADAPTER): Promise<string | null> {
  if (!known.has(adapter)) known.set(adapter, featuresOf(adapter))
  return (await known.get(adapter)!).has(feature) ? null : `"${adapter}" has no ${feature}`
}
