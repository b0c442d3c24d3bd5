// A device that computes nothing and writes down what the stream asks of it, for tests of the
// scheduler. It holds the stream to the contract of device.ts: every stage is followed by one commit
// or one discard, slots are used in the order of their commits, staging memory is scarce.

import type { Device, Slot, Weights } from '../../src/device/device.ts'

export interface FakeDevice {
  readonly device: Device
  /** "stage slot 0", "commit slot 0 w1@0", "use slot 0", "discard slot 0", in order. */
  readonly events: string[]
  /** Slots that hold staged or committed bytes nobody has used or discarded yet. */
  held(): number
  /** Uses the slot's slab as an operation would; the weights it holds. */
  use(slot: Slot): Weights
  /** Bytes staged last in a slot. */
  bytesOf(slot: Slot): Uint8Array
}

/** `stagings` slabs may be staged at once; a further stage waits for a commit or a discard. */
export function fakeDevice(stagings: number): FakeDevice {
  const events: string[] = []
  const memory = new Map<Slot, Uint8Array>()
  const staged = new Set<Slot>()
  const committed = new Map<Slot, Weights>()
  const waiting: (() => void)[] = []
  let free = stagings
  const give = () => {
    const next = waiting.shift()
    if (next) next()
    else free++
  }
  const take = () =>
    free > 0 ? void free-- : new Promise<void>((resolve) => waiting.push(resolve))
  const device = {
    slot: (_category: string, label: string, bytes: number) => {
      const slot: Slot = { label, bytes }
      memory.set(slot, new Uint8Array(bytes))
      return slot
    },
    free: (slot: Slot) => void memory.delete(slot),
    async stage(slot: Slot, bytes: number) {
      if (staged.has(slot)) throw new Error(`${slot.label} is staged twice`)
      if (committed.has(slot)) throw new Error(`${slot.label} is staged before its slab was used`)
      if (bytes > slot.bytes) throw new Error(`${slot.label} has ${slot.bytes} bytes, not ${bytes}`)
      staged.add(slot)
      await take()
      events.push(`stage ${slot.label}`)
      return memory.get(slot)!.subarray(0, bytes)
    },
    commit(slot: Slot, weights: Weights) {
      if (committed.has(slot)) throw new Error(`${slot.label} is committed twice`)
      if (staged.delete(slot)) give()
      committed.set(slot, weights)
      events.push(`commit ${slot.label} ${weights.name}@${weights.tiles[0]!.row0}`)
    },
    discard(slot: Slot) {
      if (staged.delete(slot)) give()
      else if (!committed.delete(slot)) return
      events.push(`discard ${slot.label}`)
    },
  }
  return {
    device: device as unknown as Device,
    events,
    held: () => staged.size + committed.size,
    use(slot) {
      const [first] = committed.keys()
      if (slot !== first) throw new Error(`${slot.label} is used before ${first?.label}`)
      const weights = committed.get(slot)!
      committed.delete(slot)
      events.push(`use ${slot.label}`)
      return weights
    },
    bytesOf: (slot) => memory.get(slot)!,
  }
}
