// PyTorch's side of the benches: one process for each Python that is given, each in the environment in which it is
// fastest. Of a round the fastest of them counts.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { listed, median, note } from './common.ts'
import { type Case, type Span, startSystem, type System, type Timed } from './process.ts'

const PYTORCH = fileURLToPath(new URL('pytorch.py', import.meta.url))

/** The environment under which PyTorch multiplies fastest: an older OpenBLAS falls back to SSE
 * kernels on processors that it does not know. */
function fastestBlas(python: string): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('OPENBLAS_'))
  const plain = Object.fromEntries(kept)
  const cpu = readFileSync('/proc/cpuinfo', 'utf8')
  const known = Object.entries({ SkylakeX: 'avx512bw', Haswell: 'avx2' })
  const names = known.filter(([, flag]) => cpu.includes(flag)).map(([name]) => name)
  const tried = [plain, ...names.map((name) => ({ ...plain, OPENBLAS_CORETYPE: name }))]
  const speeds = tried.map((env) =>
    Number(execFileSync(python, [PYTORCH, '--gflops'], { env }).toString()),
  )
  const best = Math.max(...speeds)
  note(`PyTorch of ${python} multiplies at ${best.toFixed(0)} GFLOP/s`)
  return tried[speeds.indexOf(best)]!
}

/** The PyTorchs of several Pythons. */
export interface Peers {
  /** The answers of all; `ms` is the median of the fastest. */
  time(request: Case & Span): Promise<{ readonly ms: number; readonly answers: readonly Timed[] }>
  close(): Promise<void>
}

/** @param pythons separated by commas */
export function startPeers(pythons: string): Peers {
  const systems: System[] = listed(pythons).map((python, i) =>
    startSystem(`pytorch-${i}`, [python, PYTORCH], fastestBlas(python)),
  )
  return {
    async time(request) {
      const answers: Timed[] = []
      for (const system of systems) answers.push(await system.time(request))
      return { ms: Math.min(...answers.map(({ ms }) => median(ms))), answers }
    },
    close: async () => {
      await Promise.all(systems.map((system) => system.close()))
    },
  }
}
