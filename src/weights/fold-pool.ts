// A small pool of fold threads. Jobs start in the order of the calls; each promise settles when its
// bytes are in the overlay. What is folded, and when, is decided by the methods (`begin` and `overdue` of
// src/methods/dense.ts and factored.ts); store.ts makes the jobs.

import { channel } from 'node:diagnostics_channel'
import type { Worker } from 'node:worker_threads'
import { UserError } from '../util/errors.ts'
import { startWorker } from '../util/threads.ts'
import type { FoldJob, FoldReply } from './fold-worker.ts'
import { isFullDisk } from '../io/read.ts'

export interface FoldPool {
  /** Resolves when the job's result is in its target; UserError when the disk is full. */
  fold(job: FoldJob): Promise<void>
  /** Ends the threads; jobs that have not ended are rejected. */
  close(): Promise<void>
}

interface Waiting {
  readonly job: FoldJob
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/** Name of the diagnostics channel that gets a `Folded` for each finished job. */
export const FOLDED = 'zo2:folded'
const folded = channel(FOLDED)

export interface Folded {
  /** When a thread began, in performance.now()'s time. */
  readonly startMs: number
  readonly elements: number
}

/** A pool of at most `threads` threads, started when first needed. */
export function createFoldPool(threads: number): FoldPool {
  const queue: Waiting[] = []
  const active = new Map<Worker, Waiting & { readonly startMs: number }>()
  const idle: Worker[] = []
  const workers: Worker[] = []
  /** Why no job is taken any more. */
  let over: Error | undefined
  let closing = false

  const settle = (worker: Worker, error: Error | null) => {
    const done = active.get(worker)
    active.delete(worker)
    // The process must not end before terminate() is through, which holds on to the worker itself.
    if (!closing) worker.unref()
    if (done) folded.publish({ startMs: done.startMs, elements: done.job.count } satisfies Folded)
    if (error) done?.reject(error)
    else done?.resolve()
  }
  const refuse = (error: Error) => {
    over ??= error
    for (const { reject } of queue.splice(0)) reject(over)
  }
  /** A thread that ends by itself may have left half a tile: nothing is folded any more. */
  const gone = (worker: Worker, error: Error) => {
    refuse(error)
    settle(worker, over!)
  }
  const start = (): Worker => {
    const worker = startWorker('./fold-worker', import.meta.url)
    worker.on('message', (reply: FoldReply) => {
      settle(worker, reply && failure(reply))
      idle.push(worker)
      next()
    })
    worker.on('error', (error) => gone(worker, error))
    worker.on('exit', () => gone(worker, new Error('a fold thread ended')))
    workers.push(worker)
    return worker
  }
  const next = () => {
    while (queue.length > 0) {
      const worker = idle.pop() ?? (workers.length < threads ? start() : undefined)
      if (!worker) return
      const waiting = queue.shift()!
      active.set(worker, { ...waiting, startMs: performance.now() })
      worker.ref() // the process must not end while somebody waits for this job
      worker.postMessage(waiting.job)
    }
  }
  return {
    fold: (job) =>
      new Promise((resolve, reject) => {
        if (over) return reject(over)
        queue.push({ job, resolve, reject })
        next()
      }),
    async close() {
      closing = true
      refuse(new Error('the fold pool is closed'))
      await Promise.all(workers.map((worker) => worker.terminate()))
    },
  }
}

function failure(reply: NonNullable<FoldReply>): Error {
  if (isFullDisk(reply.code)) {
    return new UserError(
      `no disk space left for the folded weights (${reply.message}); free some, name another folder with --scratch-dir, or keep them in memory with a larger --ram`,
    )
  }
  return new Error(`folding weights failed: ${reply.message}`)
}
