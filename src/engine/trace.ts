// What a trace shows, taken from outside: a device and an engine that behave as those given to them
// and note when things began and ended. A span of an operation is the device's work and not its
// issue. A device that measures itself tells it later, and runs as ever; any other is waited for
// after each operation, which makes a traced run slower, with the same results.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Device, Slot, Weights } from '../device/device.ts'
import { createEngine, type Engine, type EngineOptions } from './engine.ts'
import { FOLDED, type Folded } from '../weights/fold-pool.ts'
import type { Trace } from '../records/trace.ts'

/** Waits shorter than this are none. */
const LEAST_WAIT_MS = 0.02

/** Smaller reads are rows of an embedding: hundreds at once, one span for all. */
const LEAST_SLAB_BYTES = 2 ** 16

/** What a device does besides operations. */
const NO_OPERATION: readonly (keyof Device)[] = [
  ...(['tensor', 'view', 'slot', 'free', 'reserve', 'write', 'read'] as const),
  ...(['stage', 'commit', 'discard', 'measure', 'sync', 'close'] as const),
]

type Operation = (...args: unknown[]) => Promise<void>

/** A view of the device that traces operations, uploads (stage to commit) and waits for it. */
export function traceDevice(device: Device, trace: Trace): Device {
  const staged = new Map<Slot, number>()
  const held = new Map<unknown, Weights>()
  const waited = (name: string, startMs: number) => {
    if (performance.now() - startMs >= LEAST_WAIT_MS) trace.span('waits', name, startMs)
  }
  const operation =
    (name: string, run: Operation): Operation =>
    async (...args) => {
      const weights = args.map((arg) => held.get(arg)).find((found) => found)
      const took = (startMs: number, endMs?: number) =>
        trace.span('device', name, startMs, weights && { weights: weights.name }, endMs)
      if (device.measure) return device.measure(() => run(...args), took)
      const startMs = performance.now()
      await run(...args)
      await device.sync()
      took(startMs)
    }
  const operations = Object.entries(device)
    .filter(([name, value]) => {
      return typeof value === 'function' && !NO_OPERATION.includes(name as keyof Device)
    })
    .map(([name, run]) => [name, operation(name, run as Operation)])
  const own: Partial<Device> = {
    async read(tensor, row0, rows) {
      const startMs = performance.now()
      const values = await device.read(tensor, row0, rows)
      waited(`read ${tensor.label}`, startMs)
      return values
    },
    async stage(slot, bytes) {
      const startMs = performance.now()
      const memory = await device.stage(slot, bytes)
      waited(`stage ${slot.label}`, startMs)
      staged.set(slot, performance.now())
      return memory
    },
    commit(slot, weights) {
      device.commit(slot, weights)
      held.set(slot, weights)
      const startMs = staged.get(slot)
      staged.delete(slot)
      if (startMs !== undefined) trace.span('uploads', weights.name, startMs, { slot: slot.label })
    },
    discard(slot) {
      staged.delete(slot)
      device.discard(slot)
    },
  }
  return { ...device, ...Object.fromEntries(operations), ...own }
}

/** Creates an engine whose work goes to the trace; closing it closes the trace. */
export async function createTracedEngine(
  device: Device,
  options: EngineOptions,
  trace: Trace,
): Promise<Engine> {
  const onFold = (message: unknown) => {
    const { startMs, elements } = message as Folded
    trace.span('folds', 'fold', startMs, { elements })
  }
  subscribe(FOLDED, onFold)
  const end = async () => {
    unsubscribe(FOLDED, onFold)
    await device.sync().catch(() => {}) // for what is still measured; failures are not the trace's
    await trace.close()
  }
  let engine: Engine
  try {
    engine = await createEngine(traceDevice(device, trace), options)
  } catch (error) {
    await end()
    throw error
  }
  const { state, store } = engine
  traceWaits(engine, trace)
  const begin: typeof state.begin = (step) => {
    trace.mark(`step ${step}`)
    return state.begin(step)
  }
  const close = async () => {
    try {
      await engine.close()
    } finally {
      await end()
    }
  }
  // The rest stays the engine's own: some of it changes with time.
  return Object.create(engine, {
    store: { value: { ...store, read: tracedRead(store, trace) } },
    state: { value: Object.assign(Object.create(state) as typeof state, { begin }) },
    close: { value: close },
  }) as Engine
}

/** The stream adds the time that a pass waited for a slab to the engine's counters. */
function traceWaits({ counters }: Engine, trace: Trace): void {
  let { waitMs } = counters
  Object.defineProperty(counters, 'waitMs', {
    enumerable: true,
    get: () => waitMs,
    set(value: number) {
      const added = value - waitMs
      if (added >= LEAST_WAIT_MS) trace.span('waits', 'slab', performance.now() - added)
      waitMs = value
    },
  })
}

function tracedRead(store: Engine['store'], trace: Trace): Engine['store']['read'] {
  const gathered = new Map<string, { startMs: number; rows: number; open: number }>()
  return async (name, row0, into, once) => {
    const startMs = performance.now()
    if (into.byteLength >= LEAST_SLAB_BYTES) {
      await store.read(name, row0, into, once)
      trace.span('reads', name, startMs, { row: row0, bytes: into.byteLength })
      return
    }
    const burst = gathered.get(name) ?? { startMs, rows: 0, open: 0 }
    gathered.set(name, burst)
    burst.rows++
    burst.open++
    try {
      await store.read(name, row0, into, once)
    } finally {
      if (--burst.open === 0) {
        gathered.delete(name)
        trace.span('reads', name, burst.startMs, { rows: burst.rows })
      }
    }
  }
}
