// ONNX Runtime sessions of the cpu device: one small graph for each operation and thread count, made
// when first needed and run in place on plain f32 arrays. Also the rule that keeps the bits of a
// product the same for every number of threads. Which operations there are is said in ops.ts and
// products.ts.

import { encodeModel, type OnnxGraph } from './onnx.ts'
import { openSession, type OrtSession, type OrtValue, type OrtValues } from './ort.ts'

export interface Sessions {
  /** Runs graph `name` on `feeds`; results are written into the memory of `into`. */
  run(
    name: string,
    graph: () => OnnxGraph,
    threads: number,
    feeds: OrtValues,
    into: OrtValues,
  ): Promise<void>
  close(): void
}

export const f32 = (data: Float32Array, ...dims: number[]): OrtValue => ({ data, dims })

/** A list of whole numbers, as shapes and slice borders are given to a graph. */
export const ints = (...numbers: number[]): OrtValue => ({
  data: BigInt64Array.from(numbers, BigInt),
  dims: [numbers.length],
})

export function createSessions(): Sessions {
  const sessions = new Map<string, OrtSession>()
  return {
    async run(name, graph, threads, feeds, into) {
      const key = `${name} ${threads}`
      let session = sessions.get(key)
      if (!session) sessions.set(key, (session = openSession(encodeModel(graph()), threads)))
      await session.run(feeds, into)
    },
    close() {
      for (const session of sessions.values()) session.release()
      sessions.clear()
    },
  }
}

/**
 * The largest of threads, threads/2, threads/4, ... that gives the bits of one thread. MLAS cuts
 * the rows of x among threads where m >= n (harmless, except that a single row takes another
 * kernel), else the columns in blocks of 16; pieces of at most 64 columns get a longer K block,
 * which changes the order of the sum. A single column goes by groups of rows, whose order it changes.
 */
export function stableThreads(m: number, n: number, threads: number): number {
  const stable = (t: number) => (m >= n ? t <= m / 2 : Math.floor(Math.ceil(n / 16) / t) >= 5)
  let t = n === 1 ? 1 : threads
  while (t > 1 && !stable(t)) t >>= 1
  return t
}
