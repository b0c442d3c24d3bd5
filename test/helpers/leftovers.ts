// What a piece of work leaves open in this process: files of its own, and threads.

import { channel } from 'node:diagnostics_channel'
import { readdirSync, readlinkSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import type { Worker } from 'node:worker_threads'

/** Threads that have been started and have not ended. */
const alive = new Set<Worker>()
channel('worker_threads').subscribe((message) => {
  const { worker } = message as { worker: Worker }
  alive.add(worker)
  worker.once('exit', () => alive.delete(worker))
})

/** The worker threads that run at this moment, those of the folds and of the cpu device's noise. */
export const liveWorkers = (): readonly Worker[] => [...alive]

/**
 * Files below `folder` that are open, threads, and file operations and workers that keep the process
 * alive; empty if nothing is left.
 */
export async function leftovers(folder: string): Promise<string[]> {
  await setImmediate() // the request whose end we were told of counts until then
  const files = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return [] // the descriptor that listed the folder
    }
  })
  return [
    ...files.filter((path) => path.startsWith(`${folder}/`)),
    ...[...alive].map((worker) => `thread ${worker.threadId}`),
    ...process.getActiveResourcesInfo().filter((name) => /^FS|Worker/.test(name)),
  ]
}
