// The cpu device: ONNX Runtime's kernels behind the contract of device.ts. Joins its parts: memory and
// ledger (tensors.ts), the order of operations (queue.ts), which rows go to which kernel
// (compute.ts), perturbed weights (slots.ts, noise-pool.ts). An operation is done when its promise
// resolves; only long ones leave the calling thread free meanwhile (ort.ts).

import { availableParallelism, cpus } from 'node:os'
import { UserError } from '../../util/errors.ts'
import type { Device, DeviceInfo, Tensor, Weights } from '../device.ts'
import type { Workload } from '../memory.ts'
import { fromHalves, toHalves } from '../f16.ts'
import { createLedger } from '../ledger.ts'
import { openBlas, type Blas } from './blas.ts'
import { createOperations } from './compute.ts'
import { cpuMemory } from './memory.ts'
import { createOps } from './ops.ts'
import { ortVersion } from './ort.ts'
import { NoisePool } from './noise-pool.ts'
import { createQueue, type Queue } from './queue.ts'
import { CpuSlots, versionsOf } from './slots.ts'
import { Memory } from './tensors.ts'
import { maxOf } from '../../util/extremes.ts'

/** Noise is made by all cores, up to so many; each worker costs 15 MiB of the process. */
const MOST_WORKERS = 8

/**
 * Opens the cpu device. `threads` is how many cores matrix products use (default: all); results do
 * not depend on it. `blas` names the library of large products (blas.ts; default: ONNX Runtime).
 * @throws UserError when threads is not a positive whole number, for a library that cannot be used.
 */
export async function openCpu(
  options: { readonly threads?: number; readonly blas?: string } = {},
): Promise<Device> {
  const threads = options.threads ?? availableParallelism()
  if (!Number.isInteger(threads) || threads < 1) {
    throw new UserError(`cpu device: threads is a positive whole number, not ${threads}`)
  }
  const workers = Math.min(threads, MOST_WORKERS)
  const ledger = createLedger()
  const blas = await openBlas(options.blas ?? 'onnxruntime', threads)
  const ops = createOps(threads, blas)
  const pool = new NoisePool(workers, (x, y) => ops.widen(x, x.length, 0, y, y.length))
  const slots = new CpuSlots(pool)
  const queue = createQueue()
  const memory = new Memory(ledger, pool, slots)
  const open = whileOpen(queue)
  let closing: Promise<void> | undefined
  const close = async () => {
    queue.close()
    await pool.close()
    slots.close()
    await queue.settled()
    ops.close()
    memory.clear()
  }
  return {
    info: infoOf(threads, workers, blas),
    ledger,
    memory: cpuMemory,
    prefersF32: true,
    sharesCores: true,
    stagesInPlace: true,
    tensor: open((...args) => memory.tensor(...args)),
    view: open((...args) => memory.view(...args)),
    slot: open((...args) => memory.slot(...args)),
    free(held) {
      if (!queue.closed()) memory.free(held)
    },
    reserve: open((workload) => memory.reserve(workload)),
    write: open((tensor, values, row0 = 0) => write(queue, memory, tensor, values, row0)),
    read: (tensor, row0, count) =>
      queue.run(async () =>
        tensor.dtype === 'F16'
          ? fromHalves(memory.halves(tensor, row0, count))
          : memory.rows(tensor, row0, count).slice(),
      ),
    async stage(slot, bytes) {
      queue.check()
      const view = await slots.stage(slot, bytes)
      queue.check()
      return view
    },
    commit: open((slot, weights) => {
      checkTiles(weights, memory.scratch().workload)
      slots.commit(slot, weights)
    }),
    discard(slot) {
      if (!queue.closed()) slots.discard(slot)
    },
    ...createOperations({
      ops,
      slots,
      queue,
      rows: (...args) => memory.rows(...args),
      halves: (...args) => memory.halves(...args),
      scratch: () => memory.scratch(),
    }),
    sync: () => queue.run(async () => {}),
    close: () => (closing ??= close()),
  }
}

const infoOf = (threads: number, workers: number, blas: Blas | null): DeviceInfo => ({
  kind: 'cpu',
  name: cpus()[0]?.model.trim() ?? 'unknown processor',
  detail: [
    `ONNX Runtime ${ortVersion()}`,
    ...(blas ? [blas.name] : []),
    `${threads} threads`,
    `${workers} noise workers`,
  ].join(', '),
  software: false,
})

/** Makes calls that throw once the device is closed. */
const whileOpen =
  (queue: Queue) =>
  <A extends unknown[], R>(call: (...args: A) => R) =>
  (...args: A): R => {
    queue.check()
    return call(...args)
  }

/** Copies at once, or in its turn if operations are under way. */
function write(
  queue: Queue,
  memory: Memory,
  tensor: Tensor,
  values: Float32Array,
  row0: number,
): void {
  const target = memory.elements(tensor, row0, values.length / tensor.cols)
  const half = tensor.dtype === 'F16'
  if (queue.idle()) return target.set(half ? toHalves(values) : values)
  const copy = half ? toHalves(values) : values.slice()
  // Fails only once the device is closed, when nobody can read it any more.
  queue.run(async () => target.set(copy)).catch(() => {})
}

/** The ring holds `versions` versions of the largest tile that reserve() was told. */
function checkTiles(weights: Weights, workload: Workload): void {
  const largest = maxOf(weights.tiles.map((t) => t.rows)) * weights.cols
  const versions = versionsOf(weights.recipe)
  if (largest > workload.tileElements || versions > workload.versions) {
    const found = `${versions} versions of ${largest} elements`
    const told = `${workload.versions} of ${workload.tileElements}`
    throw new Error(`cpu device: ${weights.name} has ${found}, reserve() was told ${told}`)
  }
}
