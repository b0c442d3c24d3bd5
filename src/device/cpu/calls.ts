// Calls into native libraries from the JavaScript thread, which has nothing else to do on a machine whose
// cores all multiply; only long ones run on a thread of libuv's pool. What is called is ort.ts's and
// blas.ts's matter.

import { setImmediate } from 'node:timers/promises'
import type { LibraryHandle } from 'koffi'

export type Call = ReturnType<LibraryHandle['func']>

/**
 * Bytes of a call's arrays from which on it runs in the background: a product of a tenth of a second or
 * more, beside which the 0.2 ms of handing it to another thread and back are nothing.
 */
const BACKGROUND_BYTES = 128 * 2 ** 20
/** Longest time for which calls, one after the other, keep everything else waiting; a long one is alone. */
const TURN_MS = 5

let turnEnds = 0

/** The result of a call that reads and writes arrays of so many bytes. */
export const called = (call: Call, args: unknown[], bytes: number): Promise<unknown> =>
  bytes < BACKGROUND_BYTES ? inTurn(call, args) : inBackground(call, args)

/** The call's result, made at once by this thread. */
async function inTurn(call: Call, args: unknown[]): Promise<unknown> {
  if (performance.now() > turnEnds) {
    await setImmediate()
    turnEnds = performance.now() + TURN_MS
  }
  return call(...args) as unknown
}

/** The call's result, made by a thread of libuv's pool. */
const inBackground = (call: Call, args: unknown[]): Promise<unknown> =>
  new Promise((resolve, reject) => {
    call.async(...args, (error: Error | null, result: unknown) => {
      if (error) reject(error)
      else resolve(result)
    })
  })
