// What the operations of the cpu device share: scratch that reserve() set aside, and access to tensors,
// slots and the library. The sizes of scratch are memory.ts's.

import type { Addend, Tensor } from '../device.ts'
import type { Workload } from '../memory.ts'
import type { AddendScratch } from './addends.ts'
import { onHugePages } from './huge-pages.ts'
import { cpuScratch } from './memory.ts'
import type { CpuOps } from './ops.ts'
import type { Queue } from './queue.ts'
import type { CpuSlots } from './slots.ts'

/** What reserve() set aside. */
export interface Scratch extends AddendScratch {
  readonly workload: Workload
  /** Product of the rows that go together with one tile. */
  readonly product: Float32Array
  /** Frames, mask and workspace of one attention call. */
  readonly attention: Float32Array
  readonly chunk: Float32Array
  /** Logits of one run of the head, and what becomes of them. */
  readonly logits: Float32Array
  readonly room: Float32Array
  /** Rows of f16 activations, widened. */
  readonly wide: Float32Array
  /** Whose rows `projection` holds. */
  projected: { readonly addend: Addend; readonly rows: number } | undefined
}

export function createScratch(workload: Workload): Scratch {
  const { product, projection, factors, blocks, attention, chunk, logits, wide } =
    cpuScratch(workload)
  const large = (elements: number) => onHugePages(new Float32Array(elements))
  return {
    workload,
    product: large(product),
    projection: large(projection),
    factors: new Float32Array(factors),
    blocks: large(blocks),
    attention: large(attention),
    chunk: new Float32Array(chunk),
    logits: large(logits),
    room: large(logits),
    wide: large(wide),
    projected: undefined,
  }
}

/** What an operation works with. */
export interface CpuContext {
  readonly ops: CpuOps
  readonly slots: CpuSlots
  readonly queue: Queue
  /** Rows [row0, row0 + count) of a live f32 tensor; throws if there are not so many. */
  rows(tensor: Tensor, row0: number, count: number): Float32Array
  /** Of an f16 one. */
  halves(tensor: Tensor, row0: number, count: number): Uint16Array
  scratch(): Scratch
}
