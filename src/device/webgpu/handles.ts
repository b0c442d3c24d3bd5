// Tensors and slots as the contract hands them out, with the buffers behind them. Knows what a slot
// holds (nothing, a staged slab, a committed one) and turns misuse into clear errors.

import { tensorBytes, type Slot, type Tensor, type TensorDType, type Weights } from '../device.ts'
import { type Category } from '../ledger.ts'
import { DTYPE_BYTES } from '../../util/dtypes.ts'
import { type Operand, type Part, placeOf } from './bindgroups.ts'
import { type BufferAllocation, type Buffers, USAGE } from './buffers.ts'
import type { Commands } from './commands.ts'
import type { Element } from './kernels/elements.ts'
import { alignBytes } from './memory.ts'
import type { Staged } from './transfer.ts'

/** A tensor as an operand. */
export interface TensorOperand {
  readonly buffer: Operand
  readonly cols: number
  /** Of its elements, as kernels call it. */
  readonly type: Element
}

interface SlotState {
  readonly allocation: BufferAllocation
  staged?: Staged | undefined
  weights?: Weights | undefined
  /** Serial of the last batch that reads the slot. */
  lastUse: number
}

const gone = (label: string) =>
  new Error(`"${label}" was freed or belongs to another device: allocate it on this one`)

export class Memories {
  readonly #buffers: Buffers
  readonly #commands: Commands
  readonly #views = new Map<Tensor, Part>()
  readonly #tensors = new Map<Tensor, BufferAllocation>()
  readonly #slots = new Map<Slot, SlotState>()

  constructor(buffers: Buffers, commands: Commands) {
    this.#buffers = buffers
    this.#commands = commands
  }

  tensor(
    category: Category,
    label: string,
    rows: number,
    cols: number,
    dtype: TensorDType = 'F32',
  ): Tensor {
    const usage = USAGE.storage | USAGE.copyDst | USAGE.copySrc
    const bytes = tensorBytes(rows, cols, dtype)
    const tensor = { label, dtype, rows, cols }
    this.#tensors.set(tensor, this.#buffers.allocate(category, label, bytes, usage))
    return tensor
  }

  view(of: Tensor, label: string, first: number, rows: number, cols: number): Tensor {
    const { buffer, offset } = placeOf(this.matrix(of, of.rows).buffer)
    const { dtype } = of
    const size = tensorBytes(rows, cols, dtype)
    const start = first * DTYPE_BYTES[dtype]
    if (start + size > tensorBytes(of.rows, of.cols, dtype)) {
      throw new RangeError(`"${label}" reaches beyond "${of.label}"`)
    }
    const tensor = { label, dtype, rows, cols }
    this.#views.set(tensor, { buffer, offset: offset + start, size })
    return tensor
  }

  slot(category: 'slots' | 'resident', label: string, bytes: number): Slot {
    const usage = USAGE.storage | USAGE.copyDst
    const allocation = this.#buffers.allocate(category, label, alignBytes(bytes), usage)
    const slot = { label, bytes }
    this.#slots.set(slot, { allocation, lastUse: 0 })
    return slot
  }

  free(memory: Tensor | Slot): void {
    const view = this.#views.get(memory as Tensor)
    if (view) {
      this.#commands.forget(view)
      this.#views.delete(memory as Tensor)
      return
    }
    const state = this.#slots.get(memory as Slot)
    const allocation = state?.allocation ?? this.#tensors.get(memory as Tensor)
    if (!allocation) throw gone(memory.label)
    state?.staged?.discard()
    this.#slots.delete(memory as Slot)
    this.#tensors.delete(memory as Tensor)
    this.#buffers.release(allocation)
  }

  /** A tensor as `matrix`, which must be f32. */
  plain(tensor: Tensor, rows: number, cols = tensor.cols): TensorOperand {
    if (tensor.dtype === 'F32') return this.matrix(tensor, rows, cols)
    throw new Error(`"${tensor.label}" is ${tensor.dtype} where F32 is taken`)
  }

  /** A tensor that must have at least `rows` rows and, if given, exactly `cols` columns. */
  matrix(tensor: Tensor, rows: number, cols = tensor.cols): TensorOperand {
    const operand = this.#views.get(tensor) ?? this.#tensors.get(tensor)?.buffer
    if (!operand) throw gone(tensor.label)
    if (tensor.rows < rows || tensor.cols !== cols) {
      throw new RangeError(
        `"${tensor.label}" is ${tensor.rows} x ${tensor.cols}, expected ${rows} x ${cols}`,
      )
    }
    return { buffer: operand, cols, type: tensor.dtype === 'F16' ? 'f16' : 'f32' }
  }

  state(slot: Slot): SlotState {
    const state = this.#slots.get(slot)
    if (!state) throw gone(slot.label)
    return state
  }

  /** Gives staged slabs back, at the end of a run or before the staging is replaced. */
  discardAll(): void {
    for (const state of this.#slots.values()) {
      state.staged?.discard()
      state.staged = undefined
    }
  }
}
