// The one-dimensional tensors (biases, norms): small, resident, f32. Kept on the host, updated there
// after each step, and written to the device once a pass in one version per probe.

import type { Device, Tensor } from './device/device.ts'
import type { NoiseKernel } from './noise/wasm.ts'
import type { NoiseTerm, Recipe } from './noise/distributions.ts'

export interface Vectors {
  /** Values by name, f32, after all updates applied so far. */
  readonly values: ReadonlyMap<string, Float32Array>
  /** Applies terms to every vector; `termsOf` gives a tensor's own. */
  update(termsOf: (name: string) => readonly NoiseTerm[]): void
  /** Device tensors [P, n] by name, allocated for `probes` versions. */
  allocate(device: Device, probes: number): void
  tensor(name: string): Tensor | null
  /** Writes one version per scale of the recipe to the device. */
  upload(device: Device, recipeOf: (name: string) => Recipe): void
  free(device: Device): void
}

export function createVectors(values: Map<string, Float32Array>, kernel: NoiseKernel): Vectors {
  const tensors = new Map<string, Tensor>()
  const bytesOf = (v: Float32Array) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength)
  return {
    values,
    update(termsOf) {
      for (const [name, value] of values) {
        kernel.apply(bytesOf(value), 'F32', 0, { terms: termsOf(name), scales: [] }, [], value)
      }
    },
    allocate(device, probes) {
      for (const [name, value] of values) {
        tensors.set(name, device.tensor('resident', name, probes, value.length))
      }
    },
    tensor: (name) => tensors.get(name) ?? null,
    upload(device, recipeOf) {
      for (const [name, value] of values) {
        const recipe = recipeOf(name)
        const all = new Float32Array(recipe.scales.length * value.length)
        const versions = recipe.scales.map((_, p) =>
          all.subarray(p * value.length, (p + 1) * value.length),
        )
        kernel.apply(bytesOf(value), 'F32', 0, recipe, versions)
        device.write(tensors.get(name)!, all)
      }
    },
    free(device) {
      for (const tensor of tensors.values()) device.free(tensor)
      tensors.clear()
    },
  }
}
