// A system of a bench in a process of its own: requests are JSON lines on its stdin, answers JSON
// lines on its stdout; what else it says goes to out/bench/<name>.log. While it is not asked it waits,
// so that systems can take turns without starting anew.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { openLog, OUT } from './common.ts'

/** What is to be timed; the same words for steps.ts and pytorch.py. */
export type Case = RandomCase | (Work & Tasks)
export type RandomCase = Work & Random

interface Work {
  /** A folder, or for steps.ts alone a name such as synthetic:opt-125m/2. */
  readonly model: string
  readonly method: 'mezo-sgd' | 'lozo' | 'eval'
  /** Weights as they are in the file, also where PyTorch has trained them. */
  readonly fresh?: boolean
  /** Of our side alone; gaussian if left out. */
  readonly noise?: string
}

/** Rectangles of made-up tokens. */
interface Random {
  readonly batch: number
  readonly tokens: number
  /** Tokens that carry a label: all (but the first of a sequence), or the last one of each. */
  readonly labels: 'all' | 'option'
  readonly task?: undefined
}

/** Batches of examples with options: a JSON file with a TaskBatch for each step. */
interface Tasks {
  readonly task: string
}

/** Examples, of each its options: token ids, the last answerTokens of which are the answer. */
export type TaskBatch = readonly {
  readonly answer: number
  readonly options: readonly { readonly ids: readonly number[]; readonly answerTokens: number }[]
}[]

/** Of our side alone. */
export interface Settings {
  readonly device: 'cpu' | 'webgpu'
  readonly adapter?: string
  /** As --blas of the cpu device. */
  readonly blas?: string
  readonly memory: string
  readonly resident: 'auto' | 'none' | 'all'
}

/** Which steps to take: their numbers are what token ids are made of. */
export interface Span {
  readonly first: number
  readonly steps: number
}

export interface Timed {
  /** Time of each step, or of each evaluated batch, in ms. */
  readonly ms: readonly number[]
  /** Mean of the losses of both probes, of the last step. */
  readonly loss: number
  readonly rss_peak_bytes: number
  readonly detail: string
}

export interface System {
  readonly name: string
  /** Takes steps of the case; when it changes, what the one before held is let go. */
  time(request: Case & Partial<Settings> & Span): Promise<Timed>
  close(): Promise<void>
}

export function startSystem(
  name: string,
  command: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): System {
  const log = openLog(name)
  const child = spawn(command[0]!, command.slice(1), { env, stdio: ['pipe', 'pipe', log] })
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
  return {
    name,
    async time(request) {
      child.stdin!.write(`${JSON.stringify(request)}\n`)
      const { value, done } = await lines.next()
      if (done) throw new Error(`${name} ended: see ${OUT}/${name}.log`)
      return JSON.parse(value) as Timed
    },
    async close() {
      if (child.exitCode !== null) return
      child.stdin!.end()
      await once(child, 'exit')
    },
  }
}
