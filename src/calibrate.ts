// Measures a machine for predict.ts, in a few seconds: single operations through the device's own
// contract, and the host's folds and copies. The best of some runs, since others only disturb.
// Where results are kept is in calibration.ts.

import { performance } from 'node:perf_hooks'
import type { Device, Rows, Slot, Tensor, Weights } from './device/device.ts'
import type { Recipe } from './noise/distributions.ts'
import { createNoiseKernel } from './noise/wasm.ts'
import type { Rates } from './predict.ts'
import { tilesOf } from '../scheduler/tiles.ts'
import { fillSynthetic } from './weights/synthetic.ts'
import { DTYPE_BYTES, type DType } from './weights/types.ts'

/** Of the matrix that is multiplied: four tiles. */
const [N, K] = [4096, 1024]
const ELEMENTS = N * K
/** Of attention. */
const [HEADS, HEAD_SIZE] = [32, 64]
const COLS = HEADS * HEAD_SIZE
const ROWS = 2048
const FEW = 16
const RANK = 4
const KEY = { k0: 1, k1: 2 }
const PLAIN: Recipe = { terms: [], scales: [0] }
const NOISE: Recipe = { terms: [], probe: KEY, scales: [2 ** -10, -(2 ** -10)] }
const OWED: Recipe = { ...NOISE, terms: [1, 2].map(() => ({ ...KEY, coefficient: 2 ** -12, decay: 1 })) } // prettier-ignore

const ENOUGH_RUNS = 4
const ENOUGH_MS = 400

/** Milliseconds of the fastest of a few runs; the first only warms up if it was a short one. */
async function best(run: () => Promise<void>): Promise<number> {
  let least = Infinity
  const began = performance.now()
  for (let i = 0; i <= ENOUGH_RUNS; i++) {
    const started = performance.now()
    await run()
    least = Math.min(least, performance.now() - started)
    if (i > 0 && performance.now() - began > ENOUGH_MS) break
  }
  return least
}

/** All but what depends on files. */
export type DeviceRates = Omit<Rates, 'cachedRate' | 'rowReadMs'>

/** Rates of a device that has nothing allocated; leaves it so. `threads` share the host's folds. */
export async function calibrate(device: Device, threads: number): Promise<DeviceRates> {
  device.reserve({
    ...{ probes: 2, rows: ROWS, batch: 16, tokens: ROWS, keys: ROWS, heads: HEADS },
    ...{ headSize: HEAD_SIZE, tileElements: ELEMENTS / 4, tileRows: N / 4, headRows: ROWS },
    ...{ terms: 2, versions: 2, projectionCols: RANK, addendElements: RANK * (N + K + 2) },
    ...{ slabBytes: 4 * ELEMENTS, slots: 1 },
  })
  const held: (Tensor | Slot)[] = []
  const keep = <T extends Tensor | Slot>(memory: T): T => {
    held.push(memory)
    return memory
  }
  const tensor = (label: string, rows: number, cols: number) =>
    keep(device.tensor('activations', label, rows, cols))
  try {
    const slot = keep(device.slot('slots', 'calibration', 4 * ELEMENTS))
    const [x, y] = [tensor('x', ROWS, K), tensor('y', ROWS, N)]
    const uploadRate = device.info.kind === 'cpu' ? null : await uploads(device, slot)
    const linear = await products(device, slot, x, y)
    for (const part of [x, y]) device.free(held.splice(held.indexOf(part), 1)[0]!)
    const rows = await rowOperations(device, tensor)
    return { kind: device.info.kind, threads, ...linear, ...rows, ...host(), uploadRate }
  } finally {
    for (const memory of held) device.free(memory)
    await device.sync()
  }
}

/** Bytes per second of a slab on its way into its slot, not counting the read. */
async function uploads(device: Device, slot: Slot): Promise<number> {
  const bytes = 4 * ELEMENTS
  const ms = await best(async () => {
    await device.stage(slot, bytes)
    device.commit(slot, weights('F32', PLAIN))
    device.discard(slot)
    await device.sync()
  })
  return (1000 * bytes) / ms
}

const weights = (dtype: DType, recipe: Recipe): Weights => ({
  ...{ name: 'calibration', dtype, cols: K, tiles: tilesOf(N, K), recipe },
})

async function products(device: Device, slot: Slot, x: Tensor, y: Tensor) {
  device.write(x, values(ROWS * K))
  const load = async (dtype: DType) => {
    const into = await device.stage(slot, ELEMENTS * DTYPE_BYTES[dtype])
    const data = values(dtype === 'F32' ? ELEMENTS : 0)
    if (dtype === 'F32') into.set(new Uint8Array(data.buffer))
    else fillSynthetic(0, into)
    device.commit(slot, weights(dtype, PLAIN))
    device.discard(slot)
  }
  const linear = (dtype: DType, recipe: Recipe, at: Rows) =>
    best(async () => {
      device.commit(slot, weights(dtype, recipe))
      await device.linear(x, slot, null, y, at)
      await device.sync()
    })
  const ns = (ms: number) => Math.max(0, (1e6 * ms) / ELEMENTS)

  await load('F32')
  const points: [number, number][] = []
  for (const rows of [FEW, 128, 512, ROWS]) {
    points.push([rows, ns(await linear('F32', PLAIN, { probes: 1, rows }))])
  }
  const many: Rows = { probes: 1, rows: 512 }
  const [logit, addend] = [await heads(device, slot, x, many), await addends(device, slot, x, y, many)] // prettier-ignore
  const plainMs = (points[2]![1] * ELEMENTS) / 1e6

  await load('F16')
  const few = points[0]![1]
  const widen = ns(await linear('F16', PLAIN, { probes: 1, rows: FEW })) - few
  const noise = ns(await linear('F16', NOISE, { probes: 2, rows: FEW }))
  const owed = ns(await linear('F16', OWED, { probes: 2, rows: FEW }))
  return {
    products: points,
    widen: Math.max(0, widen),
    version: Math.max(0, noise / 2 - few),
    term: Math.max(0, (owed - noise) / 2),
    logit: Math.max(0, (1e6 * (logit - plainMs)) / (many.rows * N)),
    addend: Math.max(0, (1e6 * (addend - plainMs)) / (many.rows * RANK * (N + K))),
  }
}

async function heads(device: Device, slot: Slot, x: Tensor, at: Rows): Promise<number> {
  const state = device.tensor('activations', 'loss state', at.rows, 3)
  try {
    const targets = Uint32Array.from({ length: at.rows }, (_, i) => i % N)
    const start = Float32Array.from({ length: at.rows * 3 }, (_, i) => (i % 3 ? 0 : -Infinity))
    return await best(async () => {
      device.write(state, start)
      device.commit(slot, weights('F32', PLAIN))
      await device.crossEntropy(x, slot, targets, state, at)
      await device.sync()
    })
  } finally {
    device.free(state)
  }
}

function addends(device: Device, slot: Slot, x: Tensor, y: Tensor, at: Rows): Promise<number> {
  const [right, left] = [values(RANK * K), values(N * RANK)]
  const scales = new Float32Array(RANK).fill(1)
  const addend = { kind: 'low-rank', rank: RANK, right, left, scales } as const
  return best(async () => {
    device.commit(slot, weights('F32', PLAIN))
    await device.project(x, addend, at)
    await device.linear(x, slot, null, y, at, { addend })
    await device.sync()
  })
}

type MakeTensor = (label: string, rows: number, cols: number) => Tensor

async function rowOperations(device: Device, tensor: MakeTensor) {
  const [q, k, v, y] = ['q', 'k', 'v', 'y'].map((label) => tensor(label, ROWS, COLS)) as [Tensor, Tensor, Tensor, Tensor] // prettier-ignore
  const [one, other] = [tensor('one', 1, COLS), tensor('other', 1, COLS)]
  const many = { probes: 1, rows: 1024 }
  for (const each of [q, k, v]) device.write(each, values(ROWS * COLS))
  const attention: [number, number][] = []
  for (const [batch, tokens] of [
    [16, 64],
    [4, 256],
    [1, ROWS],
  ] as const) {
    const keyMask = device.tensor('activations', 'key mask', batch, tokens)
    try {
      device.write(keyMask, new Float32Array(batch * tokens).fill(1))
      const ms = await best(async () => {
        await device.attention(q, k, v, keyMask, y, { probes: 1, batch, tokens, heads: HEADS })
        await device.sync()
      })
      attention.push([Math.log2(tokens), (1e6 * ms) / (batch * tokens * tokens * COLS)])
    } finally {
      device.free(keyMask)
    }
  }
  const timed = (run: () => Promise<void>) => best(async () => (await run(), device.sync()))
  for (const row of [one, other]) device.write(row, values(COLS))
  const norm = await timed(() => device.layerNorm(q, null, null, 1e-5, y, many))
  const sum = await timed(() => device.add(y, v, many))
  const callMs = await timed(() => device.add(one, other, { probes: 1, rows: 1 }))
  return { attention, element: (1e6 * (norm + sum)) / (2 * many.rows * COLS), callMs }
}

/** The host's folds and copies on this thread. */
function host() {
  const count = 2 ** 19
  const kernel = createNoiseKernel()
  const [raw, out] = [new Uint8Array(2 * count), new Float32Array(count)]
  const least = (run: () => void) => {
    const times = Array.from({ length: ENOUGH_RUNS }, () => {
      const started = performance.now()
      run()
      return performance.now() - started
    })
    return Math.min(...times)
  }
  const slab = new Uint8Array(2 ** 26)
  const fill = least(() => fillSynthetic(0, slab))
  const fold = (terms: number) =>
    least(() => kernel.change(raw, 'F16', 0, 1024, { kind: 'dense', terms: OWED.terms.slice(0, terms) }, out)) // prettier-ignore
  const [none, two] = [fold(0), fold(2)]
  return {
    fold: (1e6 * none) / count,
    foldTerm: (1e6 * Math.max(0, two - none)) / (2 * count),
    syntheticRate: (1000 * slab.length) / fill,
  }
}

/** Small numbers of both signs. */
const values = (count: number) => Float32Array.from({ length: count }, (_, i) => ((i % 13) - 6) / 256) // prettier-ignore
