// Skips tests where the adapter under test lacks what they need, and says what that is.

import { beforeEach } from 'vitest'
import { lacking, TEST_ADAPTER, type Feature } from './adapter.ts'

/** Skips every test of the block, with the reason, where the adapter has no such feature. */
export function needs(feature: Feature, adapter = TEST_ADAPTER): void {
  beforeEach(async ({ skip }) => {
    const reason = await lacking(feature, adapter)
    if (reason !== null) skip(reason)
  })
}
