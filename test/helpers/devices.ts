// Every device a test runs on, and what device tests share: seeded numbers, slabs, and running one
// scenario on a device and on the f64 reference. A machine without a Vulkan adapter fails the webgpu
// tests; it does not skip them.

import type { Device, Slot, Tensor, TensorDType, Tile } from '../../src/device/device.ts'
import type { Workload } from '../../src/device/memory.ts'
import { openCpu } from '../../src/device/cpu/device.ts'
import { openWebgpu } from '../../src/device/webgpu/device.ts'
import { round16, stdOf, type Noise, type Recipe } from '../../src/noise/distributions.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { convertElements, DTYPE_BYTES, type DType } from '../../src/util/dtypes.ts'
import { openReference } from '../reference/device.ts'
import { NO_TEST_ADAPTER, TEST_ADAPTER } from './adapter.ts'

export interface TestDevice {
  readonly name: string
  open(): Promise<Device>
}

async function openTestAdapter(): Promise<Device> {
  try {
    return await openWebgpu({ adapter: TEST_ADAPTER })
  } catch (cause) {
    throw new Error(NO_TEST_ADAPTER, { cause })
  }
}

export const openDevices = (): TestDevice[] => [
  { name: 'cpu', open: () => openCpu() },
  { name: 'webgpu', open: openTestAdapter },
]

/** Every device with both dtypes of activations. */
export const openInDtypes = (): (TestDevice & { readonly dtype: TensorDType })[] =>
  openDevices().flatMap((test) => [
    { ...test, dtype: 'F32' },
    { ...test, dtype: 'F16' },
  ])

/** The device with `tensor` giving activations of the dtype, unless a call says another. */
export function keeping<D extends Device>(dtype: TensorDType, device: D): D {
  return new Proxy(device, {
    get(target, key: keyof Device) {
      if (key === 'tensor') {
        return (...[category, label, rows, cols, own]: Parameters<Device['tensor']>) =>
          device.tensor(category, label, rows, cols, own ?? dtype)
      }
      const value: unknown = target[key]
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

/** Room for every case of the device tests. */
export const WORKLOAD: Workload = {
  probes: 3,
  rows: 1400,
  attention: { heads: 12, kvHeads: 12, headSize: 64, groups: 16, listed: 2800, longest: 700 },
  tileElements: 2 ** 17,
  tileRows: 1024,
  headRows: 64,
  targets: 5,
  terms: 4,
  versions: 3,
  projectionCols: 1024,
  addendElements: 2 ** 16,
  halfCols: 0,
  slabBytes: 2 ** 20,
  slots: 2,
}

/** Numbers by their seed, as many as were asked for: a test asks for the same ones again and again. */
const drawn = new Map<number, Float64Array>()

/** n numbers of about standard normal distribution times `scale`; the same for the same seed. */
export function values(n: number, seed: number, scale = 1): Float32Array {
  let normals = drawn.get(seed)
  if (!normals || normals.length < n) drawn.set(seed, (normals = draw(n, seed)))
  const scaled = new Float32Array(n)
  for (let i = 0; i < n; i++) scaled[i] = scale * normals[i]!
  return scaled
}

function draw(n: number, seed: number): Float64Array {
  let state = seed * 2654435761 + 1
  const uniform = () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32
  }
  const normals = new Float64Array(n)
  for (let i = 0; i < n; i++) {
    normals[i] = Math.sqrt(-2 * Math.log(uniform() + 1e-12)) * Math.cos(6.2832 * uniform())
  }
  return normals
}

/** A tensor with contents. */
export function filled(
  d: Device,
  rows: number,
  cols: number,
  data: Float32Array,
  dtype?: TensorDType,
): Tensor {
  const tensor = d.tensor('activations', `test ${rows}x${cols}`, rows, cols, dtype)
  d.write(tensor, data)
  return tensor
}

/** A tensor that is f32 whatever the activations are: biases, scales, states. */
export const fixed = (d: Device, rows: number, cols: number, data: Float32Array) =>
  filled(d, rows, cols, data, 'F32')

/** Terms of some past updates and the probes' scales, as a run makes them but larger. */
export function recipeOf(
  scales: number[],
  terms: number,
  decay = 1,
  noise: Noise = 'gaussian',
): Recipe {
  const term = (j: number) => ({
    ...noiseKey(3, j, 'w', 'z'),
    coefficient: round16((j % 2 ? -1 : 1) * 0.004),
    decay: Math.fround(decay),
  })
  return {
    noise,
    terms: Array.from({ length: terms }, (_, j) => term(j)),
    probe: noiseKey(3, 99, 'w', 'z'),
    scales: scales.map((s) => round16(s / stdOf(noise))),
  }
}

/** Tiles of `height` rows over rows [row0, row0 + rows); the last may be lower. */
export function tilesOver(row0: number, rows: number, height: number): Tile[] {
  const count = Math.ceil(rows / height)
  return Array.from({ length: count }, (_, i) => {
    return { row0: row0 + i * height, rows: Math.min(height, rows - i * height) }
  })
}

/** A matrix as a checkpoint holds it. */
export interface Matrix {
  readonly dtype: DType
  readonly cols: number
  /** Little endian, from row `tiles[0].row0` on. */
  readonly bytes: Uint8Array
  readonly tiles: readonly Tile[]
  readonly recipe: Recipe
  readonly transposed?: boolean
}

export function matrixOf(
  dtype: DType,
  cols: number,
  tiles: readonly Tile[],
  recipe: Recipe,
): Matrix {
  const rows = tiles.reduce((sum, t) => sum + t.rows, 0)
  const f32 = new Uint8Array(values(rows * cols, 17, 0.05).buffer)
  return { dtype, cols, bytes: convertElements(f32, 'F32', dtype), tiles, recipe }
}

/** Stages and commits `tiles` of a matrix. */
export async function load(d: Device, slot: Slot, m: Matrix, tiles = m.tiles): Promise<void> {
  const rowBytes = m.cols * DTYPE_BYTES[m.dtype]
  const rows = tiles.reduce((sum, t) => sum + t.rows, 0)
  const start = (tiles[0]!.row0 - m.tiles[0]!.row0) * rowBytes
  const bytes = rows * rowBytes
  const staged = await d.stage(slot, bytes)
  staged.set(m.bytes.subarray(start, start + bytes))
  d.commit(slot, { name: 'w', ...m, tiles })
}

/** Runs of `perSlab` tiles through two slots in turn, the next loaded before one is used. */
export async function throughSlabs(
  d: Device,
  m: Matrix,
  perSlab: number,
  use: (slot: Slot) => Promise<void>,
): Promise<void> {
  const slots = [0, 1].map((i) => d.slot('slots', `ring ${i}`, m.bytes.length))
  const slabs: (readonly Tile[])[] = []
  for (let i = 0; i < m.tiles.length; i += perSlab) slabs.push(m.tiles.slice(i, i + perSlab))
  await load(d, slots[0]!, m, slabs[0])
  for (let i = 0; i < slabs.length; i++) {
    if (i + 1 < slabs.length) await load(d, slots[(i + 1) % 2]!, m, slabs[i + 1])
    await use(slots[i % 2]!)
  }
}

/** Runs `body` on a device and frees the tensors and slots that it made. */
export async function scoped<T>(device: Device, body: (d: Device) => Promise<T>): Promise<T> {
  const made: (Tensor | Slot)[] = []
  const note = <M extends Tensor | Slot>(memory: M): M => {
    made.push(memory)
    return memory
  }
  const d = new Proxy(device, {
    get(target, key: keyof Device) {
      if (key === 'tensor') return (...a: Parameters<Device['tensor']>) => note(device.tensor(...a))
      if (key === 'slot') return (...a: Parameters<Device['slot']>) => note(device.slot(...a))
      const value: unknown = target[key]
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
  try {
    return await body(d)
  } finally {
    for (const memory of made) device.free(memory)
  }
}

/**
 * Largest |device - reference| of a scenario that returns numbers, beyond what `roundings` to f16 explain;
 * NaN if any pair is not finite.
 */
export async function differ(
  device: Device,
  scenario: (d: Device) => Promise<Float32Array>,
  { dtype = 'F32' as TensorDType, roundings = 0 } = {},
): Promise<number> {
  const expected = await scenario(keeping(dtype, openReference()))
  const found = await scoped(device, scenario)
  if (found.length !== expected.length) return NaN
  return expected.reduce((max, v, i) => {
    const rounding = roundings * Math.max(2 ** -25, Math.abs(v) * 2 ** -11)
    const difference = Math.max(0, Math.abs(v - found[i]!) - rounding)
    return difference <= max ? max : difference
  }, 0)
}
