// Measures a device for predict.ts, in a few seconds: single operations through its own contract, the
// best of some runs, since others only disturb. The host is measured in calibrate-host.ts; where
// results are kept is in rates.ts.

import type { HostRates } from './calibrate-host.ts'
import type { Addend, Device, Rows, Slot, Tensor, Weights } from '../device/device.ts'
import { queryGroups } from '../device/packed.ts'
import type { Noise, Recipe } from '../noise/distributions.ts'
import type { Rates } from './predict.ts'
import { TILE_ELEMENTS } from '../../scheduler/tile-elements.ts'
import { tilesOf } from '../../scheduler/tiles.ts'
import { fillSynthetic } from '../checkpoint/synthetic.ts'
import { DTYPE_BYTES, type DType } from '../util/dtypes.ts'

/** Of the matrix that is multiplied: whole tiles, of which many rows take one. */
const TILES = 2
const K = 1024
const TILE = TILE_ELEMENTS / K
const N = TILES * TILE
const ELEMENTS = N * K
/** Of attention. */
const [HEADS, HEAD_SIZE] = [32, 64]
const COLS = HEADS * HEAD_SIZE
const DIMS = { heads: HEADS, kvHeads: HEADS, headSize: HEAD_SIZE, scale: HEAD_SIZE ** -0.5 }
const ROWS = 2048
const FEW = 16
const MANY: Rows = { probes: 1, rows: 512 }
const RANK = 4
const KEY = { k0: 1, k1: 2 }
const PLAIN: Recipe = { terms: [], scales: [0] }
const probed = (noise: Noise) => ({
  noise,
  terms: [],
  probe: KEY,
  scales: [2 ** -10, -(2 ** -10)],
})
const owing = (noise: Noise): Recipe => ({
  ...probed(noise),
  terms: [1, 2].map(() => ({ ...KEY, coefficient: 2 ** -12, decay: 1 })),
})

const ENOUGH_RUNS = 12
const ENOUGH_MS = 350

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

/** All but what is the host's. */
type DeviceRates = Omit<Rates, keyof HostRates>

/** Rates of a device that has nothing allocated; leaves it so. `threads` is how many cores it uses. */
export async function calibrate(
  device: Device,
  threads: number,
  noise: Noise,
): Promise<DeviceRates> {
  device.reserve({
    probes: 2,
    rows: ROWS,
    attention: {
      ...{ heads: HEADS, kvHeads: HEADS, headSize: HEAD_SIZE },
      ...{ groups: 16, listed: ROWS, longest: ROWS },
    },
    tileElements: TILE * K,
    tileRows: TILE,
    headRows: ROWS,
    targets: 1,
    terms: 2,
    versions: 2,
    projectionCols: TILE,
    addendElements: 8 * TILE,
    halfCols: 0,
    slabBytes: 4 * ELEMENTS,
    slots: 1,
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
    const uploadRate = device.stagesInPlace ? null : await uploads(device, slot)
    const linear = await products(device, slot, x, y, noise)
    for (const part of [x, y]) device.free(held.splice(held.indexOf(part), 1)[0]!)
    const rows = await rowOperations(device, tensor)
    return { sharesCores: device.sharesCores, threads, ...linear, ...rows, uploadRate }
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

const weights = (dtype: DType, recipe: Recipe, tiles = TILES): Weights => ({
  name: 'calibration',
  dtype,
  cols: K,
  tiles: tilesOf(N, K).slice(0, tiles),
  recipe,
})

async function products(device: Device, slot: Slot, x: Tensor, y: Tensor, noise: Noise) {
  device.write(x, values(ROWS * K))
  const load = async (dtype: DType) => {
    const into = await device.stage(slot, ELEMENTS * DTYPE_BYTES[dtype])
    const data = values(dtype === 'F32' ? ELEMENTS : 0)
    if (dtype === 'F32') into.set(new Uint8Array(data.buffer))
    else fillSynthetic(0, into)
    device.commit(slot, weights(dtype, PLAIN))
    device.discard(slot)
  }
  /** ns of a weight element. */
  const linear = async (dtype: DType, recipe: Recipe, at: Rows, tiles: number) => {
    const ms = await best(async () => {
      device.commit(slot, weights(dtype, recipe, tiles))
      await device.linear(x, slot, null, y, at)
      await device.sync()
    })
    return (1e6 * ms) / (tiles * TILE * K)
  }

  await load('F32')
  const points: [number, number][] = []
  for (const rows of [FEW, 128, MANY.rows, ROWS]) {
    points.push([rows, await linear('F32', PLAIN, { probes: 1, rows }, rows > 128 ? 1 : TILES)])
  }
  const plain = points[2]![1]
  const logit = (await heads(device, slot, x)) - plain
  /** ns of a multiply-add with factors. */
  const addend = async (which: Addend, macs: number) =>
    Math.max(0, (await withAddend(device, slot, x, y, which)) - plain) *
    ((TILE * K) / (MANY.rows * macs))
  const addends = {
    'low-rank': await addend(LOW_RANK, RANK * (TILE + K)),
    kronecker: await addend(KRONECKER, M2 * K + N1 * TILE),
  }

  await load('F16')
  const few = points[0]![1]
  const widened = await linear('F16', PLAIN, { probes: 1, rows: FEW }, TILES)
  const perturbed = await linear('F16', probed(noise), { probes: 2, rows: FEW }, TILES)
  const owed = await linear('F16', owing(noise), { probes: 2, rows: FEW }, TILES)
  return {
    products: points,
    widen: Math.max(0, widened - few),
    version: Math.max(0, perturbed / 2 - few),
    term: Math.max(0, (owed - perturbed) / 2),
    logit: Math.max(0, (logit * K) / MANY.rows),
    addends,
  }
}

/** ns of a weight element of one tile of the head. */
async function heads(device: Device, slot: Slot, x: Tensor): Promise<number> {
  const at = MANY
  const state = device.tensor('activations', 'loss state', at.rows, 3)
  try {
    const targets = Uint32Array.from({ length: at.rows }, (_, i) => i % N)
    const start = Float32Array.from({ length: at.rows * 3 }, (_, i) => (i % 3 ? 0 : -Infinity))
    const ms = await best(async () => {
      device.write(state, start)
      device.commit(slot, weights('F32', PLAIN, 1))
      await device.crossEntropy(x, slot, targets, state, at)
      await device.sync()
    })
    return (1e6 * ms) / (TILE * K)
  } finally {
    device.free(state)
  }
}

/** ns of a weight element of one tile, being a whole matrix, with an addend. */
async function withAddend(device: Device, slot: Slot, x: Tensor, y: Tensor, addend: Addend) {
  const ms = await best(async () => {
    device.commit(slot, weights('F32', PLAIN, 1))
    await device.project(x, addend, MANY)
    await device.linear(x, slot, null, y, MANY, { addend })
    await device.sync()
  })
  return (1e6 * ms) / (TILE * K)
}

const LOW_RANK: Addend = {
  kind: 'low-rank',
  rank: RANK,
  right: values(RANK * K),
  left: values(TILE * RANK),
  scales: new Float32Array(RANK).fill(1),
}
const [M1, M2] = [TILE / 48, 48]
const [N1, N2] = [K / 32, 32]
const KRONECKER: Addend = {
  kind: 'kronecker',
  terms: 1,
  m1: M1,
  m2: M2,
  n1: N1,
  n2: N2,
  right: values(M2 * N2),
  left: values(M1 * N1),
}

type MakeTensor = (label: string, rows: number, cols: number) => Tensor

async function rowOperations(device: Device, tensor: MakeTensor) {
  const [q, k, v, y] = ['q', 'k', 'v', 'y'].map((label) => tensor(label, ROWS, COLS)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ]
  const [one, other] = [tensor('one', 1, COLS), tensor('other', 1, COLS)]
  const many = { probes: 1, rows: 1024 }
  for (const each of [q, k, v]) device.write(each, values(ROWS * COLS))
  const attention: [number, number][] = []
  for (const [batch, tokens] of [
    [16, 64],
    [4, 256],
    [1, ROWS],
  ] as const) {
    const segments = Array.from({ length: batch }, (_, i) => ({ row0: i * tokens, rows: tokens }))
    const sees = queryGroups(segments)
    const ms = await best(async () => {
      await device.attention(q, k, v, y, 1, sees, DIMS)
      await device.sync()
    })
    attention.push([Math.log2(tokens), (1e6 * ms) / (batch * tokens * tokens * COLS)])
  }
  const timed = (run: () => Promise<void>) => best(async () => (await run(), device.sync()))
  for (const row of [one, other]) device.write(row, values(COLS))
  const norm = await timed(() => device.layerNorm(q, null, null, 1e-5, y, many))
  const sum = await timed(() => device.add(y, v, many))
  const callMs = await timed(() => device.add(one, other, { probes: 1, rows: 1 }))
  return { attention, element: (1e6 * (norm + sum)) / (2 * many.rows * COLS), callMs }
}

/** Small numbers of both signs. */
function values(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => ((i % 13) - 6) / 256)
}
