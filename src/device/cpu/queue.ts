// The order of operations of the cpu device: one at a time, in the order of the calls, whether or not
// the caller awaits each. An operation that fails rejects its own promise and does not stop the next.

export interface Queue {
  /** Throws when the device is closed. */
  check(): void
  run<T>(work: () => Promise<T>): Promise<T>
  closed(): boolean
  /** True when nothing is queued or running. */
  idle(): boolean
  /** Operations that have not begun reject, as do all that come. */
  close(): void
  /** Resolves when everything queued has ended, one way or the other. */
  settled(): Promise<void>
}

/** An empty queue. */
export function createQueue(): Queue {
  let tail: Promise<void> = Promise.resolve()
  let pending = 0
  let closed = false
  const check = () => {
    if (closed) throw new Error('the cpu device is closed')
  }
  return {
    check,
    run(work) {
      pending++
      const result = tail.then(() => {
        check()
        return work()
      })
      const over = () => void pending--
      tail = result.then(over, over)
      return result
    },
    closed: () => closed,
    idle: () => pending === 0,
    close() {
      closed = true
    },
    settled: () => tail,
  }
}
