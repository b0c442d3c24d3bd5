// Starts a worker thread from a module beside the caller's, in a checkout (TypeScript, through tsx)
// and in the built package (JavaScript) alike.

import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'

/**
 * @param name file name without extension, relative to the caller, such as './fold-worker'
 * @param from the caller's import.meta.url
 */
export function startWorker(name: string, from: string): Worker {
  const worker = from.endsWith('.ts')
    ? typescriptWorker(new URL(`${name}.ts`, from))
    : new Worker(new URL(`${name}.js`, from))
  worker.unref() // an idle worker must not keep the process alive; jobs are awaited by their caller
  return worker
}

/** Node 20 does not pass a loader given by --import on to workers, so the worker registers tsx itself. */
function typescriptWorker(url: URL): Worker {
  const manifest = createRequire(import.meta.url).resolve('tsx/package.json')
  const tsx = new URL('./dist/esm/api/index.mjs', pathToFileURL(manifest)).href
  const code = `import(${JSON.stringify(tsx)}).then(({ register }) => {
    register()
    return import(${JSON.stringify(url.href)})
  })`
  return new Worker(code, { eval: true, execArgv: [] })
}
