// What all operations of one open device share: its commands, memory and ledger, and the scratch
// and transfer that `reserve` makes for a workload.

import type { Workload } from '../memory.ts'
import { createLedger, type Ledger } from '../ledger.ts'
import type { OpenAdapter } from './adapter.ts'
import { createBuffers, type Buffers } from './buffers.ts'
import type { Commands } from './commands.ts'
import { Memories } from './handles.ts'
import { alignBytes, stageCount } from './memory.ts'
import { createReadback, type Readback } from './readback.ts'
import { createScratch, type Scratch } from './scratch.ts'
import { createDirect, createRing, type Strategy, type Transfer } from './transfer.ts'

export class Runtime {
  readonly adapter: OpenAdapter
  readonly commands: Commands
  readonly ledger: Ledger = createLedger()
  readonly memories: Memories
  readonly readback: Readback
  readonly #buffers: Buffers
  readonly #strategy: Strategy
  #scratch: Scratch | undefined
  #transfer: Transfer | undefined
  #closed = false

  constructor(adapter: OpenAdapter, commands: Commands, strategy: Strategy) {
    this.adapter = adapter
    this.commands = commands
    this.#buffers = createBuffers(commands, this.ledger, adapter.maxBindingBytes)
    this.memories = new Memories(this.#buffers, this.commands)
    this.readback = createReadback(commands, this.#buffers)
    this.#strategy = strategy
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Throws if the device is closed or has failed. */
  check(): void {
    if (this.#closed) throw new Error('the webgpu device is closed')
    this.commands.check()
  }

  reserve(workload: Workload): void {
    this.check()
    this.#release()
    this.readback.reserve()
    this.#scratch = createScratch(this.commands, this.#buffers, workload)
    this.#transfer = this.#openTransfer(workload)
  }

  /** Scratch and transfer of the workload; checks as `check` does. */
  reserved(): { scratch: Scratch; transfer: Transfer } {
    this.check()
    if (!this.#scratch || !this.#transfer) {
      throw new Error('reserve() must come before the first operation')
    }
    return { scratch: this.#scratch, transfer: this.#transfer }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    // A failure has been thrown before; here only the memory matters.
    await this.commands.over(this.commands.serial).catch(() => {})
    this.#release()
    this.#buffers.releaseAll()
    this.adapter.close()
  }

  #release(): void {
    this.#transfer?.close()
    this.memories.discardAll()
    this.#scratch?.release()
    this.#transfer = this.#scratch = undefined
  }

  #openTransfer(workload: Workload): Transfer {
    const sizes = { stages: stageCount(workload), stageBytes: alignBytes(workload.slabBytes) }
    return this.#strategy === 'ring'
      ? createRing(this.commands, this.#buffers, sizes)
      : createDirect(this.commands, this.ledger, sizes)
  }
}
