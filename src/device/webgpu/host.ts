// The part of the contract that faces the host: allocation, transfers of tensors and of slabs.
// Operations are rows.ts's and slabs.ts's; buffers are buffers.ts's.

import { UserError } from '../../util/errors.ts'
import { DTYPE_BYTES } from '../../util/dtypes.ts'
import type { Device, Slot, Tensor, Weights } from '../device.ts'
import { fromHalves, toHalves } from '../f16.ts'
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
      if (dtype === 'F16' && !runtime.adapter.halves) throw noHalves(runtime.adapter.name)
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
      const plain = tensor.dtype === 'F16' ? wholeWords(tensor, data, row0) : unshared(data)
      const { BYTES_PER_ELEMENT: size } = plain
      for (let i = 0; i < plain.length; i += WRITE_ELEMENTS) {
        const part = plain.subarray(i, i + WRITE_ELEMENTS)
        commands.upload(buffer, offset + (row0 * cols + i) * size, part)
      }
    },
    async read(tensor, row0, count) {
      runtime.check()
      const { buffer, cols } = memories.matrix(tensor, row0 + count)
      const place = placeOf(buffer)
      const [first, end] = [row0 * cols, (row0 + count) * cols]
      const bytes = DTYPE_BYTES[tensor.dtype]
      const word = 4 / bytes
      const start = first - (first % word)
      const length = Math.ceil((end - start) / word) * 4
      const data = await readback.read(place.buffer, place.offset + start * bytes, length)
      if (tensor.dtype === 'F32') return new Float32Array(data)
      return fromHalves(new Uint16Array(data, (first - start) * bytes, end - first))
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
      checkStage(slot, bytes, transfer.stageBytes)
      if (state.staged) throw new Error(`slot "${slot.label}" is staged twice without a commit`)
      state.weights = undefined
      state.staged = await transfer.stage(state.allocation.buffer, bytes, state.lastUse)
      return state.staged.memory
    },
    commit(slot, weights) {
      runtime.check()
      const state = memories.state(slot)
      checkSlab(slot, weights)
      state.staged?.commit()
      state.staged = undefined
      state.weights = weights
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

const noHalves = (adapter: string) =>
  new UserError(
    `adapter "${adapter}" has no f16 in its shaders (the WebGPU feature shader-f16), which --activation-dtype ` +
      'float16 needs: use --activation-dtype float32, or --device cpu',
  )

/** f16 rows for an upload, which takes whole words; only the end of a tensor may be half of one. */
function wholeWords(tensor: Tensor, data: Float32Array, row0: number): Uint16Array<ArrayBuffer> {
  const [first, end] = [row0 * tensor.cols, row0 * tensor.cols + data.length]
  const odd = end % 2
  if (first % 2 !== 0 || (odd && end !== tensor.rows * tensor.cols)) {
    throw new RangeError(`"${tensor.label}": f16 elements [${first}, ${end}) are no whole words`)
  }
  if (!odd) return toHalves(data)
  const padded = new Float32Array(data.length + 1)
  padded.set(data)
  return toHalves(padded)
}

/** Dawn crashes on shared memory, so that is copied. Browsers may have no SharedArrayBuffer to compare with. */
function unshared(data: Float32Array): Float32Array<ArrayBuffer> {
  const plain = data.buffer instanceof ArrayBuffer ? data : data.slice()
  return plain as Float32Array<ArrayBuffer>
}

function checkStage(slot: Slot, bytes: number, stageBytes: number) {
  const limitBytes = Math.min(slot.bytes, stageBytes)
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
