// Bind groups by kernel and buffers: making one costs ten times a dispatch, so they are kept until
// one of their buffers goes away.

import type { Bindings, Kernel, Params } from './kernel.ts'

/** A part of a buffer: one object for as long as it is in use. */
export interface Part {
  readonly buffer: GPUBuffer
  readonly offset: number
  readonly size: number
}

/** What a kernel works on. */
export type Operand = GPUBuffer | Part

/** The buffer behind an operand, and where in it the operand starts, in bytes. */
export const placeOf = (operand: Operand) =>
  'offset' in operand ? operand : { buffer: operand, offset: 0 }

export class BindGroups {
  readonly #gpu: GPUDevice
  readonly #groups = new Map<GPUBindGroupLayout, Map<string, GPUBindGroup>>()
  readonly #ids = new WeakMap<Operand, number>()
  #nextId = 1

  constructor(gpu: GPUDevice) {
    this.#gpu = gpu
  }

  of<B extends Bindings, P extends Params>(
    kernel: Kernel<B, P>,
    buffers: { readonly [name in keyof B]: Operand },
  ): GPUBindGroup {
    const list = Object.keys(kernel.spec.bindings).map((name) => buffers[name]!)
    const key = `,${list.map((operand) => this.#id(operand)).join(',')},`
    let cached = this.#groups.get(kernel.layout)
    if (!cached) this.#groups.set(kernel.layout, (cached = new Map()))
    let group = cached.get(key)
    if (!group) {
      checkAliases(kernel.spec, list)
      group = this.#gpu.createBindGroup({
        layout: kernel.layout,
        entries: list.map((operand, binding) => ({
          binding,
          resource: 'offset' in operand ? operand : { buffer: operand },
        })),
      })
      cached.set(key, group)
    }
    return group
  }

  forget(operand: Operand): void {
    const part = `,${this.#id(operand)},`
    for (const cached of this.#groups.values()) {
      for (const key of cached.keys()) if (key.includes(part)) cached.delete(key)
    }
  }

  #id(operand: Operand): number {
    let id = this.#ids.get(operand)
    if (id === undefined) this.#ids.set(operand, (id = this.#nextId++))
    return id
  }
}

/** WebGPU forbids a written buffer, or a part of it, under a second name; its own message would come late. */
function checkAliases(spec: { name: string; bindings: Bindings }, list: readonly Operand[]) {
  Object.entries(spec.bindings).forEach(([name, binding], i) => {
    const written = placeOf(list[i]!).buffer
    const twice = list.some((operand, j) => j !== i && placeOf(operand).buffer === written)
    if (twice && binding.startsWith('read_write')) {
      throw new RangeError(`kernel ${spec.name}: its result ${name} must not be one of its inputs`)
    }
  })
}
