// `zo2` under observation: every call that writes below a folder in its order, and every fold; on
// request a disk that is full from the n-th such call on. The half inside of it is file-calls.mjs.

import { existsSync, readFileSync } from 'node:fs'
import { relative } from 'node:path'

/** One call, noted as it began. */
export interface Call {
  readonly ms: number
  /** The function of node:fs, or `fold` and `folded` of a fold thread. */
  readonly what: string
  /** Relative to the folder. */
  readonly path: string
  /** The call was made to fail: the disk was full. */
  readonly failed: boolean
}

const PRELOAD = new URL('file-calls.mjs', import.meta.url).href

/**
 * The environment for such a `zo2`.
 * @param below whose files count
 * @param log where the calls are noted; outside of `below`
 * @param fullFrom number of the first call that fails, from 1
 */
export function watched(below: string, log: string, fullFrom?: number): Record<string, string> {
  return {
    NODE_OPTIONS: `--import ${PRELOAD}`,
    ZO2_CALLS_BELOW: below,
    ZO2_CALLS_LOG: log,
    ...(fullFrom !== undefined && { ZO2_CALLS_FULL_FROM: String(fullFrom) }),
  }
}

/** The calls in a log, or those after its first `fromBytes`. */
export function callsIn(below: string, log: string): Call[] {
  return existsSync(log) ? parseCalls(below, readFileSync(log, 'utf8')) : []
}

/** The whole lines of a log's text. */
export function parseCalls(below: string, text: string): Call[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const [ms, what, ...path] = line.split(' ')
      return {
        ms: Number(ms),
        what: what!.replace('!', ''),
        path: relative(below, path.join(' ')),
        failed: what!.endsWith('!'),
      }
    })
}
