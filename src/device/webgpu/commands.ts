// Records dispatches and copies in call order and submits them in batches. Owns the open command
// encoder, the serial number of every batch (who waits for what), and the device's first failure,
// which is thrown at the next call, because WebGPU reports errors late. A lost device ends every wait.

import { BindGroups, type Operand } from './bindgroups.ts'
import type { Bindings, Kernel, KernelSpec, Params } from './kernel.ts'
import { compileKernel, packParams } from './kernel.ts'

/** Workgroups per dimension that every adapter takes. */
const MAX_GROUPS = 65_535

/** Commands recorded before they are submitted, so that the GPU starts early. */
export const BATCH = 32

export type Groups = readonly [x: number, y?: number, z?: number]

/** What measures passes (timer.ts). */
interface Timer {
  /** How the pass that begins now is measured, if it is. */
  pass(): GPUComputePassDescriptor | undefined
  /** Records what gets the batch's times; to be called once it is submitted. Never rejects. */
  collect(encoder: GPUCommandEncoder): (() => Promise<void>) | undefined
}

const asError = (error: unknown) => (error instanceof Error ? error : new Error(String(error)))

export class Commands {
  readonly gpu: GPUDevice
  /** Set where passes are to be measured. */
  timer: Timer | undefined
  readonly #maxGroups: number
  readonly #bindGroups: BindGroups
  readonly #checks = new Set<Promise<void>>()
  readonly #running = new Map<number, Promise<void>>()
  /** How to end what waits for the driver. */
  readonly #waiting = new Set<(error: Error) => void>()
  #lost: Error | undefined
  #failure: Error | undefined
  #encoder: GPUCommandEncoder | undefined
  #pass: GPUComputePassEncoder | undefined
  #recorded = 0
  #serial = 1

  /** `maxGroups`: workgroups per dimension at most. */
  constructor(gpu: GPUDevice, maxGroups = MAX_GROUPS) {
    this.gpu = gpu
    this.#maxGroups = maxGroups
    this.#bindGroups = new BindGroups(gpu)
  }

  /** Two dimensions for a flat range of workgroups: [x, y] with x*y >= groups, all in the first if they fit. */
  flat(groups: number): [x: number, y: number] {
    const y = Math.max(1, Math.ceil(groups / this.#maxGroups))
    return [Math.max(1, Math.ceil(groups / y)), y]
  }

  /** Builds a kernel; a compile error surfaces at the next call or in `settled`. */
  compile<B extends Bindings, P extends Params>(spec: KernelSpec<B, P>): Kernel<B, P> {
    const { kernel, checked } = compileKernel(this.gpu, spec)
    this.#watch(checked)
    return kernel
  }

  /** Records one dispatch. */
  run<B extends Bindings, P extends Params>(
    kernel: Kernel<B, P>,
    buffers: { readonly [name in keyof B]: Operand },
    params: { readonly [name in keyof P]: number },
    groups: Groups,
  ): void {
    const [x, y = 1, z = 1] = groups
    if (Math.max(x, y, z) > this.#maxGroups) {
      throw new RangeError(`kernel ${kernel.spec.name}: grid ${x} x ${y} x ${z} is too large`)
    }
    const bindGroup = this.#bindGroups.of(kernel, buffers)
    this.#encoder ??= this.gpu.createCommandEncoder()
    const pass = (this.#pass ??= this.#encoder.beginComputePass(this.timer?.pass()))
    pass.setPipeline(kernel.pipeline)
    pass.setBindGroup(0, bindGroup)
    pass.setImmediates(0, packParams(kernel.spec.params, params))
    pass.dispatchWorkgroups(x, y, z)
    this.#count()
  }

  /** Records a copy; offsets and bytes are multiples of 4. */
  copy(from: GPUBuffer, fromByte: number, to: GPUBuffer, toByte: number, bytes: number): void {
    this.endPass()
    this.#encoder ??= this.gpu.createCommandEncoder()
    this.#encoder.copyBufferToBuffer(from, fromByte, to, toByte, bytes)
    this.#count()
  }

  /** Writes host data in order: after all work recorded so far, before all later work. */
  upload(to: GPUBuffer, toByte: number, data: ArrayBufferView<ArrayBuffer>): void {
    // A queue write takes effect before the next submit, hence before work that is only recorded.
    this.flush()
    this.gpu.queue.writeBuffer(to, toByte, data)
  }

  /** What is recorded next is not one pass with what was recorded before. */
  endPass(): void {
    this.#pass?.end()
    this.#pass = undefined
  }

  /** Submits what is recorded. */
  flush(): void {
    if (!this.#encoder) return
    this.endPass()
    const collect = this.timer?.collect(this.#encoder)
    this.gpu.queue.submit([this.#encoder.finish()])
    this.#encoder = undefined
    this.#recorded = 0
    const serial = this.#serial++
    const over = Promise.all([this.answer(this.gpu.queue.onSubmittedWorkDone()), collect?.()])
      .then(
        () => {},
        (error: unknown) => this.fail(asError(error)),
      )
      .finally(() => this.#running.delete(serial))
    this.#running.set(serial, over)
  }

  /** Serial of the batch being recorded: all work recorded so far is over when it is. */
  get serial(): number {
    return this.#serial
  }

  /** Submits if needed and waits for all batches up to `serial`. Rejects when the device failed. */
  async over(serial: number): Promise<void> {
    if (serial >= this.#serial) this.flush()
    for (const [number, over] of [...this.#running]) if (number <= serial) await over
    this.check()
  }

  /** Before an operand goes away: submits work that uses it, forgets its bind groups. */
  forget(operand: Operand): void {
    this.flush()
    this.#bindGroups.forget(operand)
  }

  /** Runs `create` under error scopes; a failure is kept, as what `explain` makes of it. */
  guard<T>(create: () => T, explain: (message: string) => Error): T {
    this.gpu.pushErrorScope('out-of-memory')
    this.gpu.pushErrorScope('validation')
    try {
      return create()
    } finally {
      const scopes = Promise.all([this.gpu.popErrorScope(), this.gpu.popErrorScope()])
      const checked = scopes.then((errors) => {
        const error = errors.find((e) => e !== null)
        if (error) throw explain(error.message)
      })
      this.#watch(checked)
    }
  }

  /** Keeps the first failure; it stays, since nothing after it can be trusted. */
  fail(error: Error): void {
    this.#failure ??= error
  }

  /** The device is gone: all that waits for it rejects now, every later call throws. */
  lose(error: Error): void {
    this.#lost = error
    this.#failure = error // what failed before it was reported follows from it
    for (const reject of this.#waiting) reject(error)
    this.#waiting.clear()
  }

  /** What the driver owes; rejects once the device is lost, whether the driver answers or not. */
  answer<T>(owed: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#waiting.add(reject)
      // Not a race against a promise of the loss, which would keep a reaction for every wait.
      owed.then(resolve, reject).finally(() => this.#waiting.delete(reject))
      if (this.#lost) reject(this.#lost)
    })
  }

  /** Throws the failure, if there is one. */
  check(): void {
    if (this.#failure) throw this.#failure
  }

  /** Waits for the checks of everything created so far. */
  async settled(): Promise<void> {
    while (this.#checks.size > 0) await Promise.all(this.#checks)
    this.check()
  }

  #watch(work: Promise<void>): void {
    const watched: Promise<void> = this.answer(work)
      .catch((error: unknown) => this.fail(asError(error)))
      .finally(() => this.#checks.delete(watched))
    this.#checks.add(watched)
  }

  #count(): void {
    if (++this.#recorded >= BATCH) this.flush()
  }
}
