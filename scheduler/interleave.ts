// Passes that share one stream of weights: each slab is handed to every pass in turn, and one pass
// runs at a time, from the slab it was given until it asks for the next. What a pass computes is its
// own matter.

import type { StreamedSlab } from './stream.ts'

/** What a pass calls where it needs the next slab; gives up its turn. */
export type NextSlab = () => Promise<StreamedSlab>

/**
 * Runs passes over a stream that hands out every slab once per pass; their results, in order. Once a
 * pass or the stream fails, the other passes are ended with the same error, which is thrown.
 * @param onSlab called before each slab with how many of the passes' slabs were used
 */
export async function inTurns<T>(
  slabs: AsyncIterable<StreamedSlab>,
  bodies: readonly ((next: NextSlab) => Promise<T>)[],
  onSlab?: (used: number) => void,
): Promise<T[]> {
  const passes = bodies.map(createPass)
  try {
    for (const pass of passes) await pass.start()
    let used = 0
    for await (const slab of slabs) {
      onSlab?.(used)
      await passes[used++ % passes.length]!.resume(slab)
    }
    return passes.map((pass) => pass.result())
  } catch (error) {
    await Promise.all(passes.map((pass) => pass.end(error)))
    throw error
  }
}

type State<T> =
  | { readonly kind: 'running'; readonly turnOver: () => void }
  | {
      readonly kind: 'waiting'
      readonly give: (slab: StreamedSlab) => void
      readonly fail: (error: unknown) => void
    }
  | { readonly kind: 'failed'; readonly error: unknown }
  | { readonly kind: 'done'; readonly value: T }

function createPass<T>(body: (next: NextSlab) => Promise<T>) {
  let state: State<T> | undefined
  let over: Promise<void> | undefined
  const change = (to: State<T>) => {
    const before = state
    state = to
    if (before?.kind === 'running') before.turnOver()
  }
  const next: NextSlab = () => new Promise((give, fail) => change({ kind: 'waiting', give, fail }))
  /** Lets the pass run until it waits or ends. */
  const turn = async (go: () => void) => {
    await new Promise<void>((turnOver) => {
      state = { kind: 'running', turnOver }
      go()
    })
    if (state?.kind === 'failed') throw state.error
  }
  return {
    start: () =>
      turn(() => {
        over = body(next).then(
          (value) => change({ kind: 'done', value }),
          (error: unknown) => change({ kind: 'failed', error }),
        )
      }),
    async resume(slab: StreamedSlab) {
      if (state?.kind !== 'waiting') throw new Error(`${slab.slab.name} was streamed but not used`)
      const { give } = state
      await turn(() => give(slab))
    },
    result(): T {
      if (state?.kind !== 'done') throw new Error('a pass asked for more slabs than the plan has')
      return state.value
    },
    async end(error: unknown) {
      if (state?.kind === 'waiting') state.fail(error)
      await over
    },
  }
}
