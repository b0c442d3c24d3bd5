// Attention of one batch: over its own keys, over those that a cache holds, behind a model's prefix.
// Only where keys and values lie is decided here; the arithmetic is the device's.

import type { Run } from '../../models/model.ts'
import type { AttentionShape, Device, Tensor } from '../device/device.ts'
import type { Lane } from './working-set.ts'

/**
 * A pass over tokens whose predecessors' keys and values are on the device: first all tokens of the
 * prompts at once (past 0), then one token of each sequence at a time. No probes.
 */
export interface Cached {
  /** Positions to make room for, in all, besides a prefix. */
  readonly capacity: number
  /** Positions before the tokens of this pass, besides a prefix. */
  readonly past: number
  /** 1 token, 0 padding, by sequence, for all positions so far. */
  readonly mask: readonly (readonly number[])[]
}

export interface AttendInput {
  /** [B, n+T]. */
  readonly keyMask: Tensor
  readonly cached?: Cached | undefined
}

/** Keys and values by sequence, `positions` rows each. */
interface Rows {
  readonly keys: Tensor
  readonly values: Tensor
  readonly positions: number
}

/** `shapeNow`: its probes grow where probes part. */
export function createAttend(
  device: Device,
  { cache, prefixed }: Lane,
  { keyMask, cached }: AttendInput,
  shapeNow: () => AttentionShape,
): Run['attend'] {
  const n = prefixed?.tokens ?? 0

  /** Copies k and v [R, C] to their places, `past` positions after the prefix. */
  const append = async (to: Rows, k: Tensor, v: Tensor, past: number) => {
    const { probes, batch, tokens } = shapeNow()
    const places = Uint32Array.from({ length: probes * batch * tokens }, (_, i) => {
      return Math.floor(i / tokens) * to.positions + n + past + (i % tokens)
    })
    await device.scatterRows(k, places, to.keys)
    await device.scatterRows(v, places, to.values)
  }
  /** Copies the layer's prefix, each probe's own, to the front of all its sequences. */
  const prepend = async (to: Rows, layer: number) => {
    if (!prefixed) return
    const { probes, batch } = shapeNow()
    for (let b = 0; b < batch; b++) {
      const places = Uint32Array.from({ length: probes * n }, (_, i) => {
        return (Math.floor(i / n) * batch + b) * to.positions + (i % n)
      })
      await device.scatterRows(prefixed.prefixKeys[layer]!, places, to.keys)
      await device.scatterRows(prefixed.prefixValues[layer]!, places, to.values)
    }
  }

  return async (layer, q, k, v, y) => {
    const shape = shapeNow()
    if (cached && cache) {
      const { capacity: positions } = cache
      const to = { keys: cache.keys[layer]!, values: cache.values[layer]!, positions }
      await append(to, k, v, cached.past)
      if (cached.past > 0) {
        await device.attention(q, to.keys, to.values, cache.mask, y, { ...shape, keys: positions })
        return
      }
      await prepend(to, layer)
    }
    // The first tokens see each other only; a later one sees all that the cache's mask shows.
    if (!prefixed) return device.attention(q, k, v, keyMask, y, shape)
    const positions = n + shape.tokens
    const to = { keys: prefixed.keys, values: prefixed.values, positions }
    await append(to, k, v, 0)
    await prepend(to, layer)
    await device.attention(q, to.keys, to.values, keyMask, y, { ...shape, keys: positions })
  }
}
