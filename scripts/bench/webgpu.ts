// Bench (b): products at OPT's shapes and the forward pass of one OPT block, by the project's webgpu
// device and by the libraries of package.json, on one adapter. Every system has a process of its own
// that stays for the whole bench; rounds go through the systems in turn. f32 everywhere; weights are
// resident; a system whose result differs from ours is left out. What a peer prints is in
// out/bench/webgpu-*.log.
//   npx tsx scripts/bench/webgpu.ts [--rounds 5] [--runs 3] [--adapter llvmpipe] [--only gemm,block]

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { listAdapters } from '../../src/device/webgpu/device.ts'
import { flags, listed, median, note, openLog, record, say, spread, table } from './common.ts'
import { type Answer, flopsOf, type Request, type Shape, SYSTEMS } from './webgpu/work.ts'

const block = (batch: number, tokens: number, hidden: number, heads: number): Shape => ({
  kind: 'block',
  batch,
  tokens,
  hidden,
  ffn: 4 * hidden,
  heads,
})
const gemm = (rows: number, depth: number, cols: number): Shape => ({
  kind: 'gemm',
  rows,
  depth,
  cols,
})
const SHAPES: Shape[] = [
  gemm(1024, 768, 768),
  gemm(1024, 768, 3072),
  gemm(1024, 3072, 768),
  gemm(1024, 1024, 4096),
  gemm(1024, 2048, 2048),
  gemm(2048, 2048, 8192),
  block(16, 64, 768, 12),
  block(1, 1024, 768, 12),
  block(1, 2048, 768, 12),
  block(16, 64, 1024, 16),
]

const nameOf = (s: Shape) =>
  s.kind === 'gemm'
    ? `[${s.rows} x ${s.depth}] x [${s.depth} x ${s.cols}]`
    : `block, C ${s.hidden}, ${s.batch} x ${s.tokens}`

interface Process {
  readonly name: string
  ask(request: Request): Promise<Answer>
}

/** Largest difference of a result from ours, over the largest value of ours. */
const TOLERANCE = 1e-3

async function start(name: string, adapter: string): Promise<Process | null> {
  const path = fileURLToPath(new URL('webgpu/worker.ts', import.meta.url))
  const log = openLog(`webgpu-${name.replaceAll(' ', '-')}`)
  const child = fork(path, [name, adapter], { stdio: ['ignore', log, log, 'ipc'] })
  const ask = async (request: Request) => {
    child.send(request)
    return answerOf(child)
  }
  const { version, error } = await answerOf(child)
  note(`${name}: ${version ?? `does not run: ${error}`}`)
  return error === undefined ? { name, ask } : null
}

async function answerOf(child: ChildProcess): Promise<Answer> {
  const answered = new AbortController()
  const { signal } = answered
  try {
    return await Promise.race([
      once(child, 'message', { signal }).then(([message]) => message as Answer),
      once(child, 'exit', { signal }).then(([code]) => ({ error: `ended with ${code}` })),
    ])
  } finally {
    answered.abort()
  }
}

/** Times of every system that can do the shape, by name, round by round. */
async function measure(processes: readonly Process[], shape: Shape) {
  const taking: Process[] = []
  let ours: readonly number[] | undefined
  for (const each of processes) {
    const { sample, error } = await each.ask({ do: 'prepare', shape })
    ours ??= sample
    const wrong = error ?? difference(sample!, ours!)
    if (wrong === null) taking.push(each)
    else note(`${nameOf(shape)}: ${each.name} left out: ${wrong}`)
  }
  const times = new Map(taking.map(({ name }) => [name, [] as number[]]))
  const rss = new Map<string, number>()
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const { name, ask } of taking) {
      const { ms, rssBytes, error } = await ask({ do: 'run', times: Number(options.runs) })
      if (error !== undefined) throw new Error(`${name}: ${error}`)
      times.get(name)!.push(median(ms!))
      rss.set(name, rssBytes!)
    }
  }
  return { times, rss }
}

function difference(sample: readonly number[], ours: readonly number[]): string | null {
  const largest = Math.max(...ours.map(Math.abs))
  const off = Math.max(...ours.map((value, i) => Math.abs(value - sample[i]!))) / largest
  return off <= TOLERANCE ? null : `its result differs from ours by ${off} of the largest value`
}

async function main() {
  const adapter = (await listAdapters()).find((a) => a.name.includes(options.adapter))
  if (!adapter) throw new Error(`no adapter "${options.adapter}": bash scripts/setup-vulkan.sh`)
  const started = await Promise.all(Object.keys(SYSTEMS).map((name) => start(name, adapter.name)))
  const processes = started.filter((p) => p !== null)
  const peers = processes.map(({ name }) => name).filter((name) => name !== 'zo2')
  const rows: string[][] = []
  try {
    for (const shape of SHAPES.filter(({ kind }) => listed(options.only).includes(kind))) {
      const { times, rss } = await measure(processes, shape)
      const gflops = (name: string) =>
        times.get(name)?.map((ms) => flopsOf(shape) / ms / 1e6) ?? null
      const ours = times.get('zo2')!
      const best = [...times.keys()]
        .filter((name) => name !== 'zo2')
        .toSorted((a, b) => median(times.get(a)!) - median(times.get(b)!))[0]
      const ratios = best === undefined ? null : times.get(best)!.map((ms, i) => ms / ours[i]!)
      record('webgpu', {
        adapter: adapter.name,
        shape,
        ms: Object.fromEntries(times),
        best,
        ratios,
        rss_bytes: Object.fromEntries(rss),
      })
      rows.push([
        nameOf(shape),
        `${median(ours).toFixed(0)} ms`,
        ...['zo2', ...peers].map((name) => (gflops(name) ? spread(gflops(name)!, 1) : '-')),
        ratios ? `${spread(ratios, 2)} (${best})` : '-',
      ])
      note(`${rows.at(-1)!.join('  ')}`)
    }
  } finally {
    await Promise.all(processes.map(({ ask }) => ask({ do: 'close' })))
  }
  say(`\n${adapter.name}; GFLOP/s, median (min-max) of ${options.rounds} rounds\n`)
  table(['f32', 'zo2', 'zo2 GFLOP/s', ...peers, 'zo2 faster than the best peer by'], rows)
}

const options = flags({ rounds: '5', runs: '3', adapter: 'llvmpipe', only: 'gemm,block' })
await main()
