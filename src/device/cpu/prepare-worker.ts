// One noise worker: turns the raw bytes of a tile into its perturbed f32 versions. Started and fed by
// prepare.ts; keeps nothing between jobs but its WebAssembly kernel.

import { parentPort } from 'node:worker_threads'
import { createNoiseKernel } from '../../noise/wasm.ts'
import type { PrepareReply, PrepareRequest } from './prepare.ts'

const kernel = createNoiseKernel()
const port = parentPort!

port.on('message', ({ id, job, buffers }: PrepareRequest) => {
  const reply: PrepareReply = { id }
  try {
    const versions = buffers.map((buffer) => new Float32Array(buffer, 0, job.count))
    kernel.apply(job.raw, job.dtype, job.first, job.recipe, versions)
  } catch (error) {
    reply.error = error
  }
  port.postMessage(reply)
})
