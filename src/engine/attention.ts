// Attention of one pass: over its own keys, over those that a cache holds, behind a model's prefix.
// Only where keys and values lie is decided here, and which rows ask; the arithmetic is the device's.

import type { Rows, Tensor } from '../device/device.ts'
import { lastKeys, onlyQueries, upTo, type QueryGroups } from '../device/packed.ts'
import type { Engine } from './engine.ts'
import type { WorkingSet } from './working-set.ts'

/** A pass over tokens some of whose predecessors' keys and values are on the device. No probes. */
export interface Cached {
  /** Rows to make room for, in all, besides a prefix. */
  readonly capacity: number
  /** [R] where the keys and values of this pass go, besides a prefix. */
  readonly places: Uint32Array
  /** Whether the cache holds nothing yet. */
  readonly begins: boolean
}

interface AttendInput {
  /** Keys are rows of the cache, if there is one, behind a prefix's. */
  readonly sees: QueryGroups
  /** The rows whose logits are wanted: those that ask in the last layer. */
  readonly wanted: { readonly rows: Uint32Array }
  readonly cached?: Cached | undefined
}

/** Attention of a layer over the rows q, k and v; in the last layer of the wanted rows alone. */
type Attend = (
  at: { readonly layer: number; readonly window?: number },
  q: Tensor,
  k: Tensor,
  v: Tensor,
  y: Tensor,
) => Promise<void>

interface KeyValues {
  readonly keys: Tensor
  readonly values: Tensor
}

/** Rows of each probe begin `stride` rows apart. */
interface Place extends KeyValues {
  readonly stride: number
}

/** `now`: its probes grow where probes part. */
export function createAttend(
  { device, model }: Engine,
  { cache, prefixed }: Pick<WorkingSet, 'cache' | 'prefixed'>,
  { sees, wanted, cached }: AttendInput,
  now: () => Rows,
): Attend {
  const n = prefixed?.tokens ?? 0
  const places = cached?.places ?? upTo(sees.queries)
  const front = upTo(n)
  const isAll = wanted.rows.length === sees.queries
  /** By window: devices keep what they make of a list as long as it is the same. */
  const windows = new Map<number | undefined, QueryGroups>()
  const groupsOf = (window: number | undefined, isLast: boolean) => {
    let groups = windows.get(window)
    if (!groups) windows.set(window, (groups = lastKeys(sees, window)))
    return isLast && !isAll ? onlyQueries(groups, wanted.rows) : groups
  }

  /** Copies rows [P*rows.length, C] to those places behind `first` of each probe. */
  const put = (x: Tensor, y: Tensor, rows: Uint32Array, first: number, stride: number) =>
    device.scatterRows(x, ofProbes(now().probes, stride, rows, first), y)
  /** The keys and values of a layer, once those of this pass are with them. */
  const gathered = async (layer: number, k: Tensor, v: Tensor): Promise<KeyValues> => {
    const to = placeOf(layer)
    if (!to) return { keys: k, values: v }
    await put(k, to.keys, places, n, to.stride)
    await put(v, to.values, places, n, to.stride)
    if (prefixed && (cached?.begins ?? true)) {
      await put(prefixed.prefixKeys[layer]!, to.keys, front, 0, to.stride)
      await put(prefixed.prefixValues[layer]!, to.values, front, 0, to.stride)
    }
    return to
  }
  const placeOf = (layer: number): Place | null => {
    if (cached && cache) {
      const { capacity } = cache
      return { keys: cache.keys[layer]!, values: cache.values[layer]!, stride: capacity }
    }
    const stride = n + sees.queries
    return prefixed && { keys: prefixed.keys, values: prefixed.values, stride }
  }

  return async ({ layer, window }, q, k, v, y) => {
    const { probes } = now()
    const { keys, values } = await gathered(layer, k, v)
    const dims = model.attention
    const groups = groupsOf(window, layer === model.layers - 1)
    if (groups.queries === sees.queries) {
      return device.attention(q, keys, values, y, probes, groups, dims)
    }
    await device.gatherRows(q, ofProbes(probes, sees.queries, wanted.rows), y)
    await device.attention(y, keys, values, y, probes, groups, dims)
  }
}

/** Rows `first` + rows[i] of each probe, whose rows begin `stride` apart. */
export function ofProbes(
  probes: number,
  stride: number,
  rows: Uint32Array,
  first = 0,
): Uint32Array {
  const all = new Uint32Array(probes * rows.length)
  for (let p = 0; p < probes; p++) {
    rows.forEach((row, i) => (all[p * rows.length + i] = p * stride + first + row))
  }
  return all
}
