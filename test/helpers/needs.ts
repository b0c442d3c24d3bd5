// Skips tests where the adapter under test lacks what they need, and says what that is.

import { beforeEach } from 'vitest'
import { lacking, TEST_ADAPTER, type Feature } from './adapter.ts'

/** As `needs`, for blocks that run on each device: f16 activations are a matter of the adapter on webgpu alone. */
export function needsHalves({ name }: { readonly name: string }): void {
  if (name === 'webgpu') needs('shader-f16')
}

/** Skips every test of the block, with the reason, where the adapter has no such feature. */
export function needs(feature: Feature, adapter = TEST_ADAPTER): void {
  beforeEach(async ({ skip }) => {
    const reason = await lacking(feature, adapter)
    if (reason !== null) skip(reason)
  })
}
