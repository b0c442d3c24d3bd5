// While a promise of Dawn is pending, its Node binding polls from a setImmediate loop that burns a
// whole core. On a software adapter that core is the "GPU", so there the poll is slowed to once a
// millisecond. Only native callbacks are slowed; everybody else keeps the real setImmediate. A poll
// that never comes ends all promises of its instance for good (Dawn queues no second one), so that
// the timer is the process's own, not one that somebody may have put into the global scope.

import { setTimeout } from 'node:timers'

let users = 0
let hurried = 0
let original: typeof globalThis.setImmediate | undefined

const isNative = (callback: unknown) =>
  Function.prototype.toString.call(callback).includes('[native code]')

/** Slows Dawn's polling until the returned function is called; nests. */
export function throttlePolling(): () => void {
  if (users++ === 0) {
    const immediate = globalThis.setImmediate
    original = immediate
    const throttled = (callback: (...args: unknown[]) => void, ...args: unknown[]) =>
      isNative(callback) && hurried === 0
        ? setTimeout(callback, 1, ...args)
        : immediate(callback, ...args)
    globalThis.setImmediate = Object.assign(throttled, immediate) as unknown as typeof immediate
  }
  let active = true
  return () => {
    if (!active) return
    active = false
    if (--users === 0 && original) globalThis.setImmediate = original
  }
}

/** Polls as fast as it goes while `body` runs, so that what it waits for is told at once. */
export async function hurryPolling(body: () => Promise<void>): Promise<void> {
  hurried++
  try {
    await body()
  } finally {
    hurried--
  }
}
