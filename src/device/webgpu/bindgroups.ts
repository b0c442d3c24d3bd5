// Bind groups by kernel and buffers: making one costs ten times a dispatch, so they are kept until
// one of their buffers goes away.

import type { Bindings, Kernel, Params } from './kernel.ts'

export class BindGroups {
  readonly #gpu: GPUDevice
  readonly #groups = new Map<GPUBindGroupLayout, Map<string, GPUBindGroup>>()
  readonly #ids = new WeakMap<GPUBuffer, number>()
  #nextId = 1

  constructor(gpu: GPUDevice) {
    this.#gpu = gpu
  }

  of<B extends Bindings, P extends Params>(
    kernel: Kernel<B, P>,
    buffers: { readonly [name in keyof B]: GPUBuffer },
  ): GPUBindGroup {
    const list = Object.keys(kernel.spec.bindings).map((name) => buffers[name]!)
    const key = `,${list.map((buffer) => this.#id(buffer)).join(',')},`
    let cached = this.#groups.get(kernel.layout)
    if (!cached) this.#groups.set(kernel.layout, (cached = new Map()))
    let group = cached.get(key)
    if (!group) {
      checkAliases(kernel.spec, list)
      group = this.#gpu.createBindGroup({
        layout: kernel.layout,
        entries: list.map((buffer, binding) => ({ binding, resource: { buffer } })),
      })
      cached.set(key, group)
    }
    return group
  }

  forget(buffer: GPUBuffer): void {
    const part = `,${this.#id(buffer)},`
    for (const cached of this.#groups.values()) {
      for (const key of cached.keys()) if (key.includes(part)) cached.delete(key)
    }
  }

  #id(buffer: GPUBuffer): number {
    let id = this.#ids.get(buffer)
    if (id === undefined) this.#ids.set(buffer, (id = this.#nextId++))
    return id
  }
}

/** WebGPU forbids a written buffer under a second name; its own message would come late. */
function checkAliases(spec: { name: string; bindings: Bindings }, list: readonly GPUBuffer[]) {
  Object.entries(spec.bindings).forEach(([name, binding], i) => {
    const twice = list.some((buffer, j) => j !== i && buffer === list[i])
    if (twice && binding.startsWith('read_write')) {
      throw new RangeError(`kernel ${spec.name}: its result ${name} must not be one of its inputs`)
    }
  })
}
