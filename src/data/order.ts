// Which examples step t sees. A pure function of (seed, t): nothing to save in a checkpoint and
// nothing to replay on resume. Example counts, batches and padding are batches.ts's matter.
// Shuffle: Durstenfeld's form of Fisher-Yates, driven by the run's counter-based generator.

import { noiseKey, threefry2x32, uniform53 } from '../noise/threefry.ts'

/**
 * The order of `length` examples in an epoch: each of 0 .. length-1 once, the same on all machines.
 * @param length number of examples, below 2^32
 * @param seed the run's seed, a safe non-negative integer
 * @param epoch 0-based, a u32
 */
export function permutation(length: number, seed: number, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length }, (_, i) => i)
  const { k0, k1 } = noiseKey(seed, epoch, 'examples', 'order')
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(uniform53(threefry2x32(k0, k1, i, 0)) * (i + 1))
    const moved = order[i]!
    order[i] = order[j]!
    order[j] = moved
  }
  return order
}

/**
 * Indices of the examples in the batch of a step. The epochs' permutations stand one after another
 * and batches are cut from that line, so a batch may straddle epochs, or hold several of them.
 * @param step 0-based; step * batchSize must be a safe integer
 * @param count number of examples, at least 1
 */
export function indicesForStep(
  step: number,
  batchSize: number,
  count: number,
  seed: number,
): number[] {
  const first = step * batchSize
  return Array.from({ length: batchSize }, (_, i) => {
    const epoch = Math.floor((first + i) / count)
    return recentPermutation(count, seed, epoch)[(first + i) % count]!
  })
}

/** The batches of a run: the indices of batch number `batch`, 0-based. */
export type Order = (batch: number) => readonly number[]

/** Batches of `batchSize` examples. */
export const byCount =
  (count: number, batchSize: number, seed: number): Order =>
  (batch) =>
    indicesForStep(batch, batchSize, count, seed)

/** Batches of as many examples as have at most `most` tokens together; one example at least. */
export function bySize(sizes: readonly number[], most: number, seed: number): Order {
  const sizeAt = (place: number) => {
    const epoch = Math.floor(place / sizes.length)
    return sizes[recentPermutation(sizes.length, seed, epoch)[place % sizes.length]!]!
  }
  /** Where each batch begins in the line of all epochs, as far as was asked for. */
  const starts = [0]
  return (batch) => {
    while (starts.length < batch + 2) {
      let end = starts.at(-1)!
      let tokens = sizeAt(end++)
      while (tokens + sizeAt(end) <= most) tokens += sizeAt(end++)
      starts.push(end)
    }
    const [first, end] = [starts[batch]!, starts[batch + 1]!]
    return Array.from({ length: end - first }, (_, i) => {
      return indicesForStep(first + i, 1, sizes.length, seed)[0]!
    })
  }
}

/** Batches in which every one of `count` examples is seen once; a fraction, where one straddles epochs. */
export function batchesPerEpoch(order: Order, count: number): number {
  for (let [batch, seen] = [0, 0]; ; batch++) {
    const { length } = order(batch)
    if (seen + length >= count) return batch + (count - seen) / length
    seen += length
  }
}

/** The items of batch number `index` (0-based); epochs stand one after another, no batch is short. */
export const itemsAt = <Item>(
  dataset: readonly Item[],
  index: number,
  batchSize: number,
  seed: number,
): Item[] => indicesForStep(index, batchSize, dataset.length, seed).map((i) => dataset[i]!)

// Steps of one epoch ask for the same permutation again and again, and it costs O(count) to make.
// Remembering the last one changes no result.
let recent: { key: string; order: Uint32Array } | undefined

function recentPermutation(count: number, seed: number, epoch: number): Uint32Array {
  const key = `${count} ${seed} ${epoch}`
  if (recent?.key !== key) recent = { key, order: permutation(count, seed, epoch) }
  return recent.order
}
