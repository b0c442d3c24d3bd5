// One noise worker: turns its parts of raw tiles into perturbed f32 versions. Started and fed by
// noise-pool.ts; keeps nothing between jobs but its WebAssembly kernel.

import { parentPort } from 'node:worker_threads'
import { createNoiseKernel } from '../../noise/wasm.ts'
import type { PreparePart, PrepareReply } from './noise-pool.ts'

const kernel = createNoiseKernel()
const port = parentPort!

port.on('message', (parts: readonly PreparePart[]) => {
  const reply: PrepareReply = parts.map(({ job, versions }) => {
    try {
      kernel.apply(job.raw, job.dtype, job.first, job.recipe, versions)
      return undefined
    } catch (error) {
      return error
    }
  })
  port.postMessage(reply)
})
