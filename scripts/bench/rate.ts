// Bench (f): the rate of a whole step of LOZO, in multiplications, beside that of ONNX Runtime's Gemm at the
// shapes of the step's own products (all rows of both probes, one compute tile), on the same threads, in
// turns. Counted are products with weights, the addends' small ones, and scores and values of attention
// as far as they are causal. `products`: of the step's time, what its products with weights would take by
// themselves, all else counted as time lost.
//   bash scripts/bench/run.sh f [--sizes opt-125m] [--shapes 16x64] [--labels all] [--memory 1GiB]
//     [--rounds 5] [--steps 2]

import { availableParallelism } from 'node:os'
import { tilesOf } from '../../scheduler/tiles.ts'
import { encodeModel } from '../../src/device/cpu/onnx.ts'
import { openSession, type OrtSession } from '../../src/device/cpu/ort.ts'
import { f32 } from '../../src/device/cpu/sessions.ts'
import { syntheticModel } from '../../src/engine/load.ts'
import { checkpoint } from './checkpoint.ts'
import { flags, listed, median, note, record, say, spread, table } from './common.ts'
import { startSystem } from './process.ts'
import { OURS, type Variant } from './rounds.ts'

const options = flags({
  sizes: 'opt-125m',
  shapes: '16x64',
  labels: 'all',
  memory: '1GiB',
  rounds: '5',
  steps: '2',
})
const PROBES = 2
const CALLS = 5
/** Rank 2 in each of the history's four windows (steps.ts), in the current one, and in the step's own direction. */
const ADDEND_RANK = 12

/** y [m, n] = x [m, k] * w [n, k]^T, `count` times in a step. */
interface Product {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly count: number
}

/** The products of a step of LOZO with all weights, tile by tile, equal ones as one, and other work. */
function workOf(size: string, batch: number, tokens: number, labels: string) {
  const { matrices, hidden, layers } = syntheticModel({ size }).model
  const labelled = labels === 'all' ? tokens - 1 : 1
  const found = new Map<string, Product>()
  // Scores and weighted values: query t has t + 1 keys.
  let otherFlops = 2 * 2 * layers * PROBES * batch * tokens * ((tokens + 1) / 2) * hidden
  for (const [i, { rows, cols: k }] of matrices.entries()) {
    const head = i === matrices.length - 1
    const m = PROBES * batch * (head ? labelled : tokens)
    otherFlops += 2 * m * ADDEND_RANK * (rows + k)
    for (const { rows: n } of tilesOf(rows, k)) {
      const key = `${m} ${n} ${k}`
      found.set(key, { m, n, k, count: (found.get(key)?.count ?? 0) + 1 })
    }
  }
  const products = [...found.values()]
  const flops = products.reduce((sum, { m, n, k, count }) => sum + 2 * m * n * k * count, 0)
  return { products, flops, otherFlops }
}

const random = (length: number) => Float32Array.from({ length }, () => Math.random() - 0.5)

/** Median ms of one product. */
async function time(session: OrtSession, { m, n, k }: Product): Promise<number> {
  const feeds = { x: f32(random(m * k), m, k), w: f32(random(n * k), n, k) }
  const into = { y: f32(new Float32Array(m * n), m, n) }
  await session.run(feeds, into)
  const ms: number[] = []
  for (let call = 0; call < CALLS; call++) {
    const started = performance.now()
    await session.run(feeds, into)
    ms.push(performance.now() - started)
  }
  return median(ms)
}

const rows: string[][] = []
const gemm = { op: 'Gemm', inputs: ['x', 'w'], outputs: ['y'], attributes: { transB: { int: 1 } } }
const graph = encodeModel({ nodes: [gemm], inputs: { x: 2, w: 2 }, outputs: { y: 2 } })
const session = openSession(graph, availableParallelism())
for (const size of listed(options.sizes)) {
  const model = await checkpoint(size)
  const ours = startSystem('zo2', OURS)
  try {
    for (const shape of listed(options.shapes)) {
      const [batch, tokens] = shape.split('x').map(Number) as [number, number]
      const { products, flops, otherFlops } = workOf(size, batch, tokens, options.labels)
      const of: Variant = {
        model,
        batch,
        tokens,
        method: 'lozo',
        labels: options.labels as Variant['labels'],
        device: 'cpu',
        memory: options.memory,
        resident: 'auto',
      }
      const steps = Number(options.steps)
      await ours.time({ ...of, first: 0, steps: 3 })
      const [stepMs, gemmMs]: [number[], number[]] = [[], []]
      for (let round = 1; round <= Number(options.rounds); round++) {
        let sum = 0
        for (const product of products) sum += product.count * (await time(session, product))
        gemmMs.push(sum)
        stepMs.push(median((await ours.time({ ...of, first: round * steps, steps })).ms))
        note(`round ${round}: ${sum.toFixed(0)} ms of products, step ${stepMs.at(-1)!.toFixed(0)}`)
      }
      const shares = gemmMs.map((ms, i) => ms / stepMs[i]!)
      const rates = shares.map((share) => (share * (flops + otherFlops)) / flops)
      const rate = (flops: number, ms: number[]) => (flops / median(ms) / 1e6).toFixed(0)
      record('rate', { ...of, model: size, flops, otherFlops, stepMs, gemmMs, shares, rates })
      rows.push([
        `${size}, ${shape}, ${options.labels} labels`,
        ...[spread(stepMs), spread(gemmMs), rate(flops + otherFlops, stepMs), rate(flops, gemmMs)],
        ...[spread(rates, 3), spread(shares, 3)],
      ])
    }
  } finally {
    await ours.close()
  }
}
session.release()
say(`\nLOZO, cpu; median (min-max) of ${options.rounds} rounds\n`)
table(
  [
    ...['', 'step, ms', 'its products alone, ms', 'GFLOP/s of the step', 'alone'],
    ...['rate / alone', 'products'],
  ],
  rows,
)
