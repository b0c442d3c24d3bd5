// The project's own webgpu device in the WebGPU bench: the operations that models/opt.ts calls for
// a block, on f32 weights that are resident.

import type { Slot, Tensor } from '../../../src/device/device.ts'
import { queryGroups } from '../../../src/device/packed.ts'
import { openWebgpu } from '../../../src/device/webgpu/device.ts'
import { kernelChoices } from '../../../src/engine/tuned-kernels.ts'
import { VERSION } from '../../../src/util/version.ts'
import { tilesOf } from '../../../scheduler/tiles.ts'
import type { BlockShape, Open, Operands, Shape, Values, Work } from './work.ts'

type Device = Awaited<ReturnType<typeof openWebgpu>>

interface Matrix {
  readonly slot: Slot
  readonly rows: number
  readonly cols: number
}

export const open: Open = async (adapter) => {
  const device = await openWebgpu({ adapter, choices: kernelChoices })
  let held: (Tensor | Slot)[] = []
  return {
    version: `${VERSION}, ${device.info.detail}`,
    async prepare(shape, operands) {
      held.forEach((memory) => device.free(memory))
      held = []
      const keep = <M extends Tensor | Slot>(memory: M) => (held.push(memory), memory)
      return setUp(device, keep, shape, operands)
    },
    close: () => device.close(),
  }
}

type Keep = <M extends Tensor | Slot>(memory: M) => M

async function setUp(device: Device, keep: Keep, shape: Shape, operands: Operands): Promise<Work> {
  const total = operands['x']!.rows
  const at = { probes: 1, rows: total }
  const { batch, tokens, heads } =
    shape.kind === 'block' ? shape : { batch: 1, tokens: total, heads: 1 }
  const matrices = Object.values(operands).filter((o) => o !== operands['x'] && o.rows > 1)
  const largest = Math.max(...matrices.map(({ data }) => data.byteLength))
  const tiles = matrices.flatMap((m) => tilesOf(m.cols, m.rows).map((t) => [t.rows, m.rows]))
  device.reserve({
    ...at,
    attention: {
      heads,
      kvHeads: heads,
      headSize: operands['x']!.cols / heads,
      groups: batch,
      listed: total,
      longest: tokens,
    },
    tileElements: Math.max(...tiles.map(([rows, cols]) => rows! * cols!)),
    tileRows: Math.max(...tiles.map(([rows]) => rows!)),
    headRows: 1,
    targets: 1,
    terms: 0,
    versions: 1,
    projectionCols: 0,
    addendElements: 0,
    halfCols: 0,
    slabBytes: largest,
    slots: 1,
  })
  const tensor = (label: string, cols: number) =>
    keep(device.tensor('activations', label, total, cols))
  const load = (name: string) => loadMatrix(device, keep, name, operands[name]!)
  const vector = (name: string) => {
    const { cols, data } = operands[name]!
    const memory = keep(device.tensor('resident', name, 1, cols))
    device.write(memory, data)
    return memory
  }
  const multiply = (x: Tensor, w: Matrix, bias: Tensor | null, y: Tensor, relu = false) => {
    commit(device, w)
    return device.linear(x, w.slot, bias, y, at, { relu })
  }
  const x = tensor('x', operands['x']!.cols)
  device.write(x, operands['x']!.data)
  const once = async (work: () => Promise<Tensor>) => {
    const y = await work()
    return device.read(y, 0, total)
  }
  if (shape.kind === 'gemm') {
    const w = await load('w')
    const y = tensor('y', shape.cols)
    const work = async () => (await multiply(x, w, null, y), y)
    return { run: async () => (await work(), await device.sync()), output: () => once(work) }
  }
  const work = await block({ device, shape, x, tensor, load, vector, multiply })
  return { run: async () => (await work(), await device.sync()), output: () => once(work) }
}

interface Parts {
  readonly device: Device
  readonly shape: BlockShape
  readonly x: Tensor
  tensor(label: string, cols: number): Tensor
  load(name: string): Promise<Matrix>
  vector(name: string): Tensor
  multiply(x: Tensor, w: Matrix, bias: Tensor | null, y: Tensor, relu?: boolean): Promise<void>
}

/** As models/opt.ts, a pre-norm layer: the work leaves h, which it makes from x, in memory. */
async function block(parts: Parts): Promise<() => Promise<Tensor>> {
  const { device, shape, x, tensor, load, vector, multiply } = parts
  const { batch, tokens, heads, hidden } = shape
  const at = { probes: 1, rows: batch * tokens }
  const all = Uint32Array.from({ length: at.rows }, (_, i) => i)
  const [h, a, q, k, v] = ['h', 'a', 'q', 'k', 'v'].map((label) => tensor(label, hidden)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ]
  const f = tensor('f', shape.ffn)
  const texts = Array.from({ length: batch }, (_, i) => ({ row0: i * tokens, rows: tokens }))
  const sees = queryGroups(texts)
  const headSize = hidden / heads
  const dims = { heads, kvHeads: heads, headSize, scale: headSize ** -0.5 }
  const names = ['q', 'k', 'v', 'out', 'fc1', 'fc2'] as const
  const loaded = new Map<string, { w: Matrix; bias: Tensor }>()
  for (const name of names) {
    loaded.set(name, { w: await load(name), bias: vector(`${name}_bias`) })
  }
  const norms = ['norm1', 'norm2'].map((name) => [vector(name), vector(`${name}_bias`)] as const)
  const linear = (input: Tensor, name: (typeof names)[number], y: Tensor, relu = false) => {
    const { w, bias } = loaded.get(name)!
    return multiply(input, w, bias, y, relu)
  }
  const norm = (i: number, y: Tensor) =>
    device.layerNorm(h, norms[i]![0], norms[i]![1], 1e-5, y, at)
  return async () => {
    await device.gatherRows(x, all, h)
    await norm(0, a)
    await linear(a, 'q', q)
    await linear(a, 'k', k)
    await linear(a, 'v', v)
    await device.attention(q, k, v, a, 1, sees, dims)
    await linear(a, 'out', q)
    await device.add(q, h, at)
    await norm(1, a)
    await linear(a, 'fc1', f, true)
    await linear(f, 'fc2', a)
    await device.add(a, h, at)
    return h
  }
}

async function loadMatrix(device: Device, keep: Keep, label: string, w: Values): Promise<Matrix> {
  const slot = keep(device.slot('resident', label, w.data.byteLength))
  const bytes = await device.stage(slot, w.data.byteLength)
  bytes.set(new Uint8Array(transposed(w).buffer))
  const matrix = { slot, rows: w.cols, cols: w.rows }
  commit(device, matrix)
  return matrix
}

/** Checkpoints hold [out, in]. */
function transposed({ rows, cols, data }: Values): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length)
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) out[c * rows + r] = data[r * cols + c]!
  }
  return out
}

const plain = { terms: [], scales: [0] }

function commit(device: Device, { slot, rows, cols }: Matrix) {
  const tiles = tilesOf(rows, cols)
  device.commit(slot, { name: slot.label, dtype: 'F32', cols, tiles, recipe: plain })
}
