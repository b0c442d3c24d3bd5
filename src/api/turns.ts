// Calls on one model one after another: an engine does one thing at a time, and callers need not know.
// What a call does is model.ts's and trainer.ts's matter.

import { AsyncLocalStorage } from 'node:async_hooks'
import PQueue from 'p-queue'
import { UserError } from '../util/errors.ts'

export interface Turns {
  /** Runs `work` when all calls before it are over. Inside of another call's callback it runs at once. */
  run<T>(work: () => Promise<T>): Promise<T>
  /**
   * The same for work that must not happen in the middle of another call.
   * @throws UserError inside of another call's callback, which would wait for itself
   */
  alone<T>(what: string, work: () => Promise<T>): Promise<T>
}

/** An empty queue of calls. */
export function createTurns(): Turns {
  const queue = new PQueue({ concurrency: 1 })
  const inside = new AsyncLocalStorage<true>()
  const queued = <T>(work: () => Promise<T>): Promise<T> =>
    queue.add(() => inside.run(true, work)) as Promise<T>
  return {
    run: (work) => (inside.getStore() ? work() : queued(work)),
    async alone(what, work) {
      if (inside.getStore()) {
        throw new UserError(
          `${what} cannot be called from a callback of a call under way; wait for that call first`,
        )
      }
      return queued(work)
    },
  }
}
