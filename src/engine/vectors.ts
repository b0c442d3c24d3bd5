// The one-dimensional tensors (biases, norms): small, resident, f32. Kept on the host, updated there
// after each step with dense noise whatever the method, and written to the device once a pass in one
// version per probe. They do not decay.

import type { Device, Tensor } from '../device/device.ts'
import type { Probes, Update } from '../methods/method.ts'
import { recipe, terms, type Scope } from '../methods/perturbation.ts'
import type { NoiseTerm } from '../noise/distributions.ts'
import type { NoiseKernel } from '../noise/wasm.ts'

export interface Vectors {
  /** Values by name, f32, after all updates pushed so far. */
  readonly values: ReadonlyMap<string, Float32Array>
  push(update: Update): void
  /** Device tensors [P, n] by name, allocated for `probes` versions. */
  allocate(device: Device, probes: number): void
  tensor(name: string): Tensor | null
  /** Writes the version of each probe to the device; null: one version, the values. */
  upload(device: Device, probes: Probes | null): void
  free(device: Device): void
}

/**
 * With momentum, v <- v - lr*m with m <- beta*m + (1 - beta)*sum_i grads[i]*z_i; m starts at 0 and is
 * as large as the vectors themselves.
 */
export function createVectors(
  values: Map<string, Float32Array>,
  kernel: NoiseKernel,
  scope: Scope,
  beta: number,
): Vectors {
  const tensors = new Map<string, Tensor>()
  const momenta = new Map<string, Float32Array>()
  const bytesOf = (v: Float32Array) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength)
  const apply = (terms: readonly NoiseTerm[], value: Float32Array) =>
    kernel.apply(bytesOf(value), 'F32', 0, { noise: scope.noise, terms, scales: [] }, [], value)

  const push = (name: string, value: Float32Array, update: Update) => {
    const own = terms(scope, name, update, false)
    if (own.length === 0) return
    if (beta === 0) {
      apply(own, value)
      return
    }
    let m = momenta.get(name)
    if (!m) momenta.set(name, (m = new Float32Array(value.length)))
    // The same moves with lr -1: the momentum gathers +(1 - beta)*grads.
    const gathered = { ...update, lr: -1, grads: update.grads.map((g) => (1 - beta) * g) }
    const decayed = terms(scope, name, { ...gathered, decay: Math.fround(beta) }, true)
    apply(decayed, m)
    const lr = Math.fround(update.lr)
    for (let i = 0; i < m.length; i++) value[i] = value[i]! - Math.fround(lr * m[i]!)
  }

  return {
    values,
    push(update) {
      for (const [name, value] of values) push(name, value, update)
    },
    allocate(device, probes) {
      for (const [name, value] of values) {
        tensors.set(name, device.tensor('resident', name, probes, value.length))
      }
    },
    tensor: (name) => tensors.get(name) ?? null,
    upload(device, probes) {
      const P = probes?.list.length ?? 1
      for (const [name, value] of values) {
        const own = recipe(scope, name, [], probes)
        const all = new Float32Array(P * value.length)
        const versions = Array.from({ length: P }, (_, p) =>
          all.subarray(p * value.length, (p + 1) * value.length),
        )
        if (own.scales.length === P) {
          kernel.apply(bytesOf(value), 'F32', 0, own, versions)
        } else {
          for (const version of versions) version.set(value) // shared by all probes
        }
        device.write(tensors.get(name)!, all)
      }
    },
    free(device) {
      for (const tensor of tensors.values()) device.free(tensor)
      tensors.clear()
    },
  }
}
