// The weight memory of a run: a ring of slots for streamed slabs and one slot for each resident
// slab, allocated once and freed by its owner. Knows which version of a resident slab is on the device.

import type { Device, Slot } from '../src/device/device.ts'
import type { Plan, Slab } from './plan.ts'

export interface Slots {
  /** The slot that slab uses in this plan. */
  of(slab: Slab): Slot
  /** True if the slab's bytes of this version are on the device already. */
  holds(slab: Slab, version: number): boolean
  /** Notes that the resident slab's bytes of this version are (or, with null, are not) there. */
  note(slab: Slab, version: number | null): void
}

export function createSlots(plan: Plan, device: Pick<Device, 'slot'>): Slots {
  const ring = Array.from({ length: plan.slots }, (_, i) =>
    device.slot('slots', `slot ${i}`, plan.slotBytes),
  )
  const resident = plan.slabs
    .slice(0, plan.residentSlabs)
    .map((slab) => device.slot('resident', slab.name, slab.bytes))
  const versions = new Map<number, number>()
  return {
    of: (slab) =>
      slab.resident ? resident[slab.index]! : ring[(slab.index - plan.residentSlabs) % plan.slots]!,
    holds: (slab, version) => slab.resident && versions.get(slab.index) === version,
    note(slab, version) {
      if (version === null) versions.delete(slab.index)
      else if (slab.resident) versions.set(slab.index, version)
    },
  }
}
