// Weight slots of the cpu device: raw bytes that files are read straight into. They are in shared
// memory, where noise workers read them in place; slabs that are multiplied as they are (f32, nothing
// owed, no noise) need no worker. Keeps the order of commits, sends each tile to be prepared as soon
// as it is committed, and tells when a slot's bytes may be overwritten.

import { perturbs, type Recipe } from '../../noise/distributions.ts'
import { DTYPE_BYTES } from '../../util/dtypes.ts'
import type { Slot, Tile, Weights } from '../device.ts'
import { onHugePages } from './huge-pages.ts'
import type { NoisePool, Prepared } from './noise-pool.ts'

/** A committed slab, from its commit until it is used or discarded. */
interface Use {
  readonly slot: Slot
  readonly weights: Weights
  readonly tiles: readonly Prepared[]
  /** Lets the slot be staged again. */
  end(): void
}

interface State {
  readonly bytes: Uint8Array
  /** Committed, neither used nor discarded. */
  use: Use | undefined
  /** Resolves when nobody reads the bytes any more. */
  idle: Promise<unknown>
}

/** The weights of one tile, [tile.rows, cols], one version for each probe or one for all. */
export interface Versions {
  readonly shared: boolean
  of(probe: number): Float32Array
}

/** Versions that a recipe asks for: one stands for all probes when none of them perturbs. */
export const versionsOf = (recipe: Recipe) => (perturbs(recipe) ? recipe.scales.length : 1)

export class CpuSlots {
  readonly #pool: NoisePool
  readonly #states = new Map<Slot, State>()
  /** Committed and not taken, in the order of the commits. */
  #order: Use[] = []
  /** Taken, its use not over. */
  readonly #taken = new Set<Use>()

  constructor(pool: NoisePool) {
    this.#pool = pool
  }

  /** Throws RangeError when there is no such memory. */
  create(slot: Slot): void {
    const bytes = onHugePages(new Uint8Array(new SharedArrayBuffer(slot.bytes)))
    this.#states.set(slot, { bytes, use: undefined, idle: Promise.resolve() })
  }

  delete(slot: Slot): void {
    this.discard(slot)
    this.#states.delete(slot)
  }

  /** The first `bytes` of the slot, once its last use is over. */
  async stage(slot: Slot, bytes: number): Promise<Uint8Array> {
    const state = this.#find(slot)
    if (bytes > slot.bytes) {
      throw new Error(`cpu device: ${bytes} bytes for slot ${slot.label} of ${slot.bytes} bytes`)
    }
    await state.idle
    return state.bytes.subarray(0, bytes)
  }

  /** Sends the slab's tiles to be prepared. */
  commit(slot: Slot, weights: Weights): void {
    const state = this.#find(slot)
    if (state.use) throw new Error(`cpu device: slot ${slot.label} is committed twice`)
    const tiles = this.#submit(state, weights)
    let ended!: () => void
    const over = new Promise<void>((resolve) => (ended = resolve))
    const use: Use = {
      slot,
      weights,
      tiles,
      end() {
        state.use = undefined
        ended()
      },
    }
    state.use = use
    state.idle = Promise.all([state.idle, over, ...tiles.map((t) => t.read)])
    this.#order.push(use)
  }

  /** Forgets a slab that nothing has taken; else does nothing. */
  discard(slot: Slot): void {
    const { use } = this.#find(slot)
    if (use && this.#order.includes(use)) this.#drop(use)
  }

  /** Claims the slot's slab for an operation, which must pass it to `run`. */
  take(slot: Slot): Use {
    const { use } = this.#find(slot)
    if (!use || use !== this.#order[0]) {
      const next = this.#order[0]?.slot.label ?? 'none'
      throw new Error(`cpu device: slot ${slot.label} is used, the next committed one is ${next}`)
    }
    this.#order.shift()
    this.#taken.add(use)
    return use
  }

  /** Uses a slab: its tiles in order, each lent until `body` resolves. */
  async run(use: Use, body: (tile: Tile, versions: Versions) => Promise<void>): Promise<void> {
    const { tiles, weights } = use
    try {
      for (const [i, tile] of weights.tiles.entries()) {
        const versions = await tiles[i]!.versions
        const elements = tile.rows * weights.cols
        const shared = versions.length === 1
        await body(tile, {
          shared,
          of(probe) {
            const version = versions[shared ? 0 : probe]
            if (!version) throw new Error(`cpu device: ${weights.name} has no version ${probe}`)
            return version.subarray(0, elements)
          },
        })
        tiles[i]!.release()
      }
    } finally {
      this.#drop(use)
    }
  }

  /** Ends every outstanding use; the pool must be closed first. */
  close(): void {
    for (const use of [...this.#order, ...this.#taken]) use.end()
    this.#order = []
    this.#taken.clear()
    this.#states.clear()
  }

  #find(slot: Slot): State {
    const state = this.#states.get(slot)
    if (!state) throw new Error(`cpu device: slot ${slot.label} was freed or never was here`)
    return state
  }

  #drop(use: Use): void {
    this.#order = this.#order.filter((u) => u !== use)
    this.#taken.delete(use)
    for (const tile of use.tiles) tile.release()
    use.end()
  }

  /** One job for each tile, in order. */
  #submit(state: State, weights: Weights): Prepared[] {
    const { name, dtype, cols, tiles, recipe } = weights
    const row0 = tiles[0]?.row0 ?? 0
    const rowBytes = cols * DTYPE_BYTES[dtype]
    const slabBytes = tiles.reduce((sum, t) => sum + t.rows, 0) * rowBytes
    if (slabBytes === 0 || slabBytes > state.bytes.length) {
      throw new Error(
        `cpu device: ${slabBytes} bytes of ${name} in a slot of ${state.bytes.length}`,
      )
    }
    const apart = perturbs(recipe)
    const made = apart ? recipe : { ...recipe, scales: [0] }
    const inPlace = dtype === 'F32' && !apart && recipe.terms.length === 0
    return tiles.map((tile) => {
      const start = (tile.row0 - row0) * rowBytes
      const raw = state.bytes.subarray(start, start + tile.rows * rowBytes)
      if (inPlace) return asPrepared(raw)
      const [first, count] = [tile.row0 * cols, tile.rows * cols]
      return this.#pool.submit({ raw, dtype, first, count, recipe: made })
    })
  }
}

function asPrepared(raw: Uint8Array): Prepared {
  const version = new Float32Array(raw.buffer, raw.byteOffset, raw.byteLength / 4)
  return { versions: Promise.resolve([version]), read: Promise.resolve(), release() {} }
}
