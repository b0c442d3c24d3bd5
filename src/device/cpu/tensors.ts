// Tensors, slots and scratch of the cpu device, with every byte charged to the ledger and given back.
// How much scratch a workload takes is said in memory.ts.

import { UserError } from '../../util/errors.ts'
import { tensorBytes, type Slot, type Tensor, type TensorDType } from '../device.ts'
import { bytesOf, type Workload } from '../memory.ts'
import { type Category, type Ledger } from '../ledger.ts'
import { createScratch, type Scratch } from './scratch.ts'
import { cpuMemory, cpuScratch } from './memory.ts'
import { onHugePages } from './huge-pages.ts'
import type { NoisePool } from './noise-pool.ts'
import type { CpuSlots } from './slots.ts'

interface Held {
  readonly category: Category
  readonly bytes: number
  /** Absent for slots, whose bytes are in slots.ts. */
  readonly data?: Float32Array | Uint16Array
}

/** Tensors, slots and scratch with their charges. */
export class Memory {
  readonly #ledger: Ledger
  readonly #pool: NoisePool
  readonly #slots: CpuSlots
  readonly #held = new Map<Tensor | Slot, Held>()
  #scratch: Scratch | undefined

  constructor(ledger: Ledger, pool: NoisePool, slots: CpuSlots) {
    this.#ledger = ledger
    this.#pool = pool
    this.#slots = slots
  }

  tensor(
    category: Category,
    label: string,
    rows: number,
    cols: number,
    dtype: TensorDType = 'F32',
  ): Tensor {
    const bytes = tensorBytes(rows, cols, dtype)
    const Elements = dtype === 'F16' ? Uint16Array : Float32Array
    const data = allocate(label, bytes, () => onHugePages(new Elements(rows * cols)))
    return this.#hold({ label, dtype, rows, cols }, { category, bytes, data })
  }

  view(of: Tensor, label: string, first: number, rows: number, cols: number): Tensor {
    const whole = this.elements(of, 0, of.rows)
    if (first + rows * cols > whole.length) {
      throw new RangeError(`cpu device: ${label} reaches beyond ${of.label}`)
    }
    const data = whole.subarray(first, first + rows * cols)
    const { dtype } = of
    return this.#hold({ label, dtype, rows, cols }, { category: 'activations', bytes: 0, data })
  }

  slot(category: 'slots' | 'resident', label: string, size: number): Slot {
    const slot: Slot = { label, bytes: size }
    allocate(label, size, () => this.#slots.create(slot))
    return this.#hold(slot, { category, bytes: cpuMemory.slotBytes(size) })
  }

  free(memory: Tensor | Slot): void {
    const held = this.#held.get(memory)
    if (!held) throw new Error(`cpu device: ${memory.label} was freed or never was here`)
    if (!held.data) this.#slots.delete(memory as Slot)
    this.#held.delete(memory)
    this.#ledger.release(held.category, held.bytes)
  }

  reserve(workload: Workload): void {
    this.#releaseScratch()
    const bytes = bytesOf(cpuMemory.scratch(workload))
    const { ringBuffers, ringElements } = cpuScratch(workload)
    this.#scratch = allocate('scratch', bytes, () => {
      this.#pool.reserve(ringBuffers, ringElements)
      return createScratch(workload)
    })
    this.#ledger.charge('scratch', bytes)
  }

  /** Rows [row0, row0 + count) of an f32 tensor, in place. */
  rows(tensor: Tensor, row0: number, count: number): Float32Array {
    const rows = this.elements(tensor, row0, count)
    if (rows instanceof Float32Array) return rows
    throw new Error(`cpu device: "${tensor.label}" is F16 where F32 is taken`)
  }

  /** Rows [row0, row0 + count) of an f16 tensor, in place. */
  halves(tensor: Tensor, row0: number, count: number): Uint16Array {
    const rows = this.elements(tensor, row0, count)
    if (rows instanceof Uint16Array) return rows
    throw new Error(`cpu device: "${tensor.label}" is F32 where F16 is taken`)
  }

  /** Rows [row0, row0 + count) of a tensor of either dtype, in place. */
  elements(tensor: Tensor, row0: number, count: number): Float32Array | Uint16Array {
    const data = this.#held.get(tensor)?.data
    if (!data) throw new Error(`cpu device: tensor ${tensor.label} was freed or never was here`)
    if (row0 < 0 || row0 + count > tensor.rows || !Number.isInteger(count)) {
      const asked = `rows [${row0}, ${row0 + count})`
      throw new RangeError(`cpu device: ${asked} of ${tensor.label}, which has ${tensor.rows}`)
    }
    return data.subarray(row0 * tensor.cols, (row0 + count) * tensor.cols)
  }

  scratch(): Scratch {
    if (!this.#scratch) throw new Error('cpu device: reserve() comes before the first operation')
    return this.#scratch
  }

  clear(): void {
    for (const { category, bytes } of this.#held.values()) this.#ledger.release(category, bytes)
    this.#held.clear()
    this.#releaseScratch()
  }

  #hold<M extends Tensor | Slot>(memory: M, held: Held): M {
    this.#held.set(memory, held)
    this.#ledger.charge(held.category, held.bytes)
    return memory
  }

  #releaseScratch(): void {
    if (!this.#scratch) return
    this.#ledger.release('scratch', bytesOf(cpuMemory.scratch(this.#scratch.workload)))
    this.#scratch = undefined
  }
}

/** `make`'s result, or a UserError that says how much was asked for. */
function allocate<T>(label: string, bytes: number, make: () => T): T {
  try {
    return make()
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause
    const size = `${Math.ceil(bytes / 2 ** 20)} MiB`
    const advice = 'use a smaller batch, --slab or --memory'
    throw new UserError(`cpu device: no memory for ${label} (${size}); ${advice}`, { cause })
  }
}
