// Measures the matmul candidates of an adapter, class by class, on a product of true proportions:
// a second or two, most of it the driver's compiler. Owns what is measured and how the winner is
// picked; what becomes of the result is device.ts's.
//
// The classes of few and of many rows must agree bit for bit, since a row's losses may not depend on
// how many rows go with it: the kernel for few rows is the fastest of those that give the bits of
// the kernel for many.

import type { OpenAdapter } from './adapter.ts'
import { NO_ADDEND } from './addends.ts'
import { MAP, USAGE } from './buffers.ts'
import type { Commands } from './commands.ts'
import { blocksOf, type MatmulSpec } from './kernels/matmul-common.ts'
import { candidates, type VariantChoice, choiceBy, FEW_ROWS, type ShapeClass } from './variants.ts'

interface Measured {
  readonly shape: ShapeClass
  readonly variant: string
  readonly gflops: number
  readonly chosen: boolean
}

export interface Tuning {
  readonly choice: VariantChoice
  readonly measured: readonly Measured[]
}

const [DEPTH, COLS] = [768, 1024]
const MANY_ROWS = { software: 256, hardware: 2048 }
/** A timed submission repeats its product up to this time, so that its own cost is small. */
const ENOUGH_MS = 10
const MOST_REPEATS = 64
/** Candidates take turns, since a machine's speed may drift; the best round counts. */
const ROUNDS = 5

interface Bench {
  readonly commands: Commands
  readonly x: GPUBuffer
  readonly w: GPUBuffer
  readonly nothing: GPUBuffer
  readonly y: GPUBuffer
  readonly out: GPUBuffer
}

/** Measures all candidates. Allocates some MiB for as long as it runs. */
export async function tune(commands: Commands, adapter: OpenAdapter): Promise<Tuning> {
  const most = adapter.software ? MANY_ROWS.software : MANY_ROWS.hardware
  const buffers: GPUBuffer[] = []
  const buffer = (elements: number, usage: number) => {
    const made = commands.gpu.createBuffer({ label: 'tuning', size: 4 * elements, usage })
    buffers.push(made)
    return made
  }
  const operand = (elements: number) =>
    buffer(elements, USAGE.storage | USAGE.copyDst | USAGE.copySrc)
  try {
    const bench: Bench = {
      commands,
      x: operand(most * DEPTH),
      w: operand(DEPTH * COLS),
      nothing: operand(4),
      y: operand(most * COLS),
      out: buffer(FEW_ROWS * COLS, USAGE.mapRead | USAGE.copyDst),
    }
    commands.upload(bench.x, 0, values(most * DEPTH))
    commands.upload(bench.w, 0, values(DEPTH * COLS))
    const plain = await pair(bench, adapter, most, 'many', 'few')
    const transposed = await pair(bench, adapter, most, 'transposed many', 'transposed few')
    const measured = [...plain, ...transposed]
    const winner = (shape: ShapeClass) =>
      measured.find((each) => each.shape === shape && each.chosen)!.variant
    return { choice: choiceBy(winner), measured }
  } finally {
    for (const each of buffers) each.destroy()
    commands.gpu.queue.submit([])
  }
}

/** Both classes of one kind of weights. */
async function pair(
  bench: Bench,
  adapter: OpenAdapter,
  mostRows: number,
  many: ShapeClass,
  few: ShapeClass,
): Promise<Measured[]> {
  const made: {
    variant: string
    run: (rows: number) => void
    bits: Uint32Array
    many: number
    few: number
  }[] = []
  for (const spec of candidates(adapter, many)) {
    const kernel = bench.commands.compile(spec.spec)
    const run = (rows: number) => runOnce(bench, spec, kernel, rows, many !== 'many')
    made.push({ variant: spec.spec.name, run, bits: await firstRows(bench, run), many: 0, few: 0 })
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const each of made) {
      each.many = Math.max(each.many, await rate(bench, each.run, mostRows))
      each.few = Math.max(each.few, await rate(bench, each.run, FEW_ROWS))
    }
  }
  const fastest = (key: 'many' | 'few', among = made) =>
    among.reduce((best, each) => (each[key] > best[key] ? each : best))
  const winner = fastest('many')
  const alike = made.filter(({ bits }) => bits.every((word, i) => word === winner.bits[i]))
  const second = fastest('few', alike)
  const rows = (shape: ShapeClass, key: 'many' | 'few', chosen: object) =>
    made.map((each) => ({
      shape,
      variant: each.variant,
      gflops: each[key],
      chosen: each === chosen,
    }))
  return [...rows(many, 'many', winner), ...rows(few, 'few', second)]
}

function runOnce(
  { commands, x, w, nothing, y }: Bench,
  matmul: MatmulSpec,
  kernel: ReturnType<Commands['compile']>,
  rows: number,
  transposed: boolean,
): void {
  commands.run(
    kernel,
    { x, w, bias: nothing, projection: nothing, factors: nothing, y },
    {
      rows,
      probe_rows: rows,
      cols: COLS,
      depth: DEPTH,
      version: 0,
      col0: 0,
      flags: 0,
      width: transposed ? DEPTH : COLS,
      weights0: 0,
      first: 0,
      ...NO_ADDEND,
    },
    commands.flat(blocksOf(matmul, rows, COLS)),
  )
}

/** Bits of the first rows; also makes the driver compile. */
async function firstRows(
  { commands, y, out }: Bench,
  run: (rows: number) => void,
): Promise<Uint32Array> {
  run(FEW_ROWS)
  commands.copy(y, 0, out, 0, out.size)
  commands.flush()
  await commands.answer(out.mapAsync(MAP.read))
  const bits = new Uint32Array(out.getMappedRange().slice(0))
  out.unmap()
  commands.check()
  return bits
}

/** GFLOP/s of a product of `rows` rows: of one if it takes long, else of a batch. */
async function rate(
  { commands }: Bench,
  run: (rows: number) => void,
  rows: number,
): Promise<number> {
  const timed = async (repeats: number) => {
    const started = performance.now()
    for (let i = 0; i < repeats; i++) run(rows)
    await commands.over(commands.serial)
    return (performance.now() - started) / repeats
  }
  const once = await timed(1)
  const repeats = Math.min(MOST_REPEATS, Math.ceil(ENOUGH_MS / once))
  const ms = repeats > 1 ? Math.min(once, await timed(repeats)) : once
  return (2 * rows * DEPTH * COLS) / (ms * 1e6)
}

/** Numbers of both signs with full mantissas, so that kernels which add in another order differ. */
const values = (count: number) =>
  Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i * 0.7)))
