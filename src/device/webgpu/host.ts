// The part of the contract that faces the host: allocation, transfers of tensors and of slabs.

import { DTYPE_BYTES } from '../../weights/types.ts'
import type { Device, Slot, Weights } from '../device.ts'
import { placeOf } from './bindgroups.ts'
import type { Runtime } from './runtime.ts'

type HostPart = Pick<
  Device,
  | 'tensor'
  | 'view'
  | 'slot'
  | 'free'
  | 'reserve'
  | 'write'
  | 'read'
  | 'stage'
  | 'commit'
  | 'discard'
>

/** Writes larger than this go in pieces, so that Dawn reuses its small upload ring. */
const WRITE_ELEMENTS = 2 ** 18

export function createHostPart(runtime: Runtime): HostPart {
  const { commands, memories, readback } = runtime
  return {
    tensor(category, label, rows, cols, dtype = 'F32') {
      runtime.check()
      if (dtype === 'F16') throw new Error('not yet')
      return memories.tensor(category, label, rows, cols, dtype)
    },
    view(...request) {
      runtime.check()
      return memories.view(...request)
    },
    slot(...request) {
      runtime.check()
      return memories.slot(...request)
    },
    free(memory) {
      if (!runtime.closed) memories.free(memory)
    },
    reserve: (workload) => runtime.reserve(workload),
    write(tensor, data, row0 = 0) {
      runtime.check()
      const { cols } = tensor
      if (data.length % cols !== 0) {
        throw new RangeError(`"${tensor.label}": ${data.length} values are no rows of ${cols}`)
      }
      const { buffer, offset } = placeOf(memories.matrix(tensor, row0 + data.length / cols).buffer)
      const plain = unshared(data)
      for (let i = 0; i < plain.length; i += WRITE_ELEMENTS) {
        commands.upload(
          buffer,
          offset + (row0 * cols + i) * 4,
          plain.subarray(i, i + WRITE_ELEMENTS),
        )
      }
    },
    async read(tensor, row0, count) {
      runtime.check()
      const { buffer, cols } = memories.matrix(tensor, row0 + count)
      const place = placeOf(buffer)
      return readback.read(place.buffer, place.offset / 4 + row0 * cols, count * cols)
    },
    ...createSlabTransfers(runtime),
  }
}

function createSlabTransfers(runtime: Runtime): Pick<HostPart, 'stage' | 'commit' | 'discard'> {
  const { memories } = runtime
  return {
    async stage(slot, bytes) {
      const { transfer } = runtime.reserved()
      const state = memories.state(slot)
      checkStage(slot, bytes, transfer.laneBytes)
      if (state.staged) throw new Error(`slot "${slot.label}" is staged twice without a commit`)
      state.weights = undefined
      state.staged = await transfer.stage(state.allocation.buffer, bytes, state.lastUse)
      return state.staged.memory
    },
    commit(slot, weights, uses = 1) {
      runtime.check()
      const state = memories.state(slot)
      checkSlab(slot, weights)
      state.staged?.commit()
      state.staged = undefined
      state.weights = weights
      state.uses = uses
    },
    discard(slot) {
      if (runtime.closed) return
      const state = memories.state(slot)
      state.staged?.discard()
      state.staged = undefined
      state.weights = undefined
    },
  }
}

/** Dawn crashes on shared memory, so that is copied. */
function unshared(data: Float32Array): Float32Array<ArrayBuffer> {
  const plain = data.buffer instanceof SharedArrayBuffer ? data.slice() : data
  return plain as Float32Array<ArrayBuffer>
}

function checkStage(slot: Slot, bytes: number, laneBytes: number) {
  const limitBytes = Math.min(slot.bytes, laneBytes)
  if (bytes > limitBytes) {
    throw new RangeError(
      `slot "${slot.label}": a slab of ${bytes} bytes exceeds the ${limitBytes} that fit`,
    )
  }
}

/** Tiles must be contiguous and fit the slot. */
function checkSlab(slot: Slot, { name, dtype, cols, tiles }: Weights) {
  const first = tiles[0]?.row0 ?? 0
  let next = first
  for (const tile of tiles) {
    if (tile.row0 !== next) {
      throw new RangeError(`${name}: a tile starts at row ${tile.row0}, expected row ${next}`)
    }
    next += tile.rows
  }
  if ((next - first) * cols * DTYPE_BYTES[dtype] > slot.bytes) {
    throw new RangeError(
      `${name}: ${next - first} x ${cols} ${dtype} weights exceed the ${slot.bytes} bytes of ` +
        `slot "${slot.label}"`,
    )
  }
}
