// The webgpu device's own memory as pure functions. The device allocates by these very functions,
// so that its ledger and `zo2 plan` cannot disagree. Bytes are as requested from WebGPU; drivers
// may round a buffer up (Vulkan below 4 MiB to a power of two, D3D12 to 64 KiB). Not counted:
// Dawn's own upload ring for activations and small tables, which `write` keeps at about 4 MiB.

import type { MemoryModel, Workload } from '../memory.ts'
import { tableWords } from './attention-table.ts'

/** Buffers and copies are whole 32-bit words. */
export const alignBytes = (bytes: number) => Math.ceil(bytes / 4) * 4

/** Host-visible buffer that reads pass through; a larger single read takes its own for a moment. */
export const READBACK_BYTES = 2 ** 20

/** Recipes that may be recorded before the commands are submitted. */
export const RECIPE_REGIONS = 16

/** Bytes of one recipe row, see kernels/perturb.ts. */
const RECIPE_ROW_BYTES = 16

/** Slabs that may be on their way at once: one being read from disk, one being uploaded. */
export const stageCount = (workload: Workload) => Math.max(1, Math.min(2, workload.slots))

/** How messages call a scratch buffer. */
export const scratchLabel = (name: string) => `scratch for ${name}`

/** Scratch buffers by name; each is one allocation. */
export function scratchSizes(workload: Workload) {
  const { probes, versions, rows, headRows, tileElements, tileRows, terms } = workload
  const { projectionCols, addendElements, targets, attention } = workload
  return {
    /** Perturbed tile [versions, tile rows, K] f32. */
    weights: 4 * versions * tileElements,
    /** Logits of one tile [P*headRows, tile rows] f32. */
    logits: Math.max(4, 4 * probes * headRows * tileRows),
    /** x after the right factor of an addend [P*rows, projection columns] f32. */
    projection: Math.max(4, 4 * probes * rows * projectionCols),
    /** Right factor, left factor and scales of an addend, f32. */
    factors: Math.max(4, 4 * (addendElements + probes * projectionCols)),
    /** Row indices, or the targets of the head's rows, u32. */
    indices: 4 * probes * Math.max(rows, headRows * Math.max(1, targets)),
    /** What each query of a probe sees, u32. */
    attention: 4 * tableWords({ ...attention, queries: rows }),
    recipes: RECIPE_REGIONS * (terms + versions) * RECIPE_ROW_BYTES,
  }
}

/** What WebGPU promises of every adapter (maxStorageBufferBindingSize); lavapipe has no more, GPUs do. */
const USUAL_BINDING_BYTES = 128 * 2 ** 20

/** Of an adapter that binds so much at once; every buffer is bound as a whole. */
export function webgpuMemory(maxBindingBytes = USUAL_BINDING_BYTES): MemoryModel {
  const most = Math.floor(maxBindingBytes / 4) * 4
  return {
    maxSlabBytes: most,
    maxAllocationBytes: most,
    slotBytes: alignBytes,
    stagingBytes: (workload) =>
      stageCount(workload) * alignBytes(workload.slabBytes) + READBACK_BYTES,
    scratch: (workload) =>
      Object.entries(scratchSizes(workload)).map(([name, bytes]) => ({
        label: scratchLabel(name),
        bytes,
      })),
  }
}
