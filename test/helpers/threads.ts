// Stands for src/util/threads.ts in tests (vitest.config.ts): threads run the compiled sources. The
// TypeScript of a checkout costs each of them 0.3 s more; unit/threads.test.ts starts it so.

import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { compiled, ROOT } from './compiled.ts'

/** As the original: `name` is relative to the module at `from`. */
export function startWorker(name: string, from: string): Worker {
  const module = relative(ROOT, fileURLToPath(new URL(name, from)))
  const worker = new Worker(join(compiled(), `${module}.js`), { execArgv: [] })
  worker.unref()
  return worker
}
